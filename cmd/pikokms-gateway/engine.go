package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"runtime/debug"

	"github.com/gofiber/fiber/v3"
	"github.com/valyala/fasthttp"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3err"
)

// engine gives access to the HTTP server of the S3 engine, which has no options for that.
type engine struct{ server *s3api.S3ApiServer }

// option is an option of the engine. The engine calls it with its server.
func (e *engine) option(s *s3api.S3ApiServer) { e.server = s }

// check returns an error if this version of the engine does not have its HTTP server where adjust
// looks for it, or if that server's requests do not have their body where bodyStream does.
func (e *engine) check() error {
	field, ok := reflect.TypeFor[s3api.S3ApiServer]().FieldByName("app")
	if !ok || field.Type != reflect.TypeFor[*fiber.App]() {
		return errors.New("the HTTP server of this version of versitygw can't be adjusted; build the gateway with the version in its go.mod")
	}
	field, ok = reflect.TypeFor[fasthttp.Request]().FieldByName("bodyStream")
	if !ok || field.Type != reflect.TypeFor[io.Reader]() {
		return errors.New("the requests of this version of fasthttp can't be adjusted; build the gateway with the version in its go.mod")
	}
	return nil
}

// adjust changes the HTTP server. It is called when the server listens and does not serve yet.
//
// By default the server parses each request whose type is multipart/form-data before it is
// authorized, and writes files in it of more than 16 MiB to temporary files, as plaintext. It
// refuses other content of that type. So forms are left unparsed here: the engine parses them
// itself, without files.
//
// Three kinds of requests get status 400, and would be internal errors otherwise: those that are
// not HTTP, those whose body ends early, and those whose URL or host can't be parsed.
func (e *engine) adjust() {
	httpServer := (*fiber.App)(reflect.ValueOf(e.server).Elem().FieldByName("app").UnsafePointer()).Server()
	httpServer.DisablePreParseMultipartForm = true
	fail, handle := httpServer.ErrorHandler, httpServer.Handler
	httpServer.ErrorHandler = func(c *fasthttp.RequestCtx, err error) {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			refuse(c, s3err.ErrIncompleteBody)
			return
		}
		fail(c, err)
		if c.Response.StatusCode() >= http.StatusInternalServerError {
			refuse(c, s3err.ErrCannotParseHTTPRequest)
		}
	}
	httpServer.Handler = func(c *fasthttp.RequestCtx) {
		_, noURI := url.ParseRequestURI(string(c.RequestURI()))
		_, noHost := url.Parse("http://" + string(c.Request.Header.Host()))
		if noURI != nil || noHost != nil {
			refuse(c, s3err.ErrInvalidURI)
			return
		}
		defer recovered(c)
		defer limitForm(c)()
		handle(c)
	}
}

// maxUnauthorized is how many bytes of a form are read before the fields at its beginning authorize
// it. S3 takes 20 KB of them (Amazon S3 API Reference, "POST Object").
const maxUnauthorized = 64 << 10

// form is the body of a request that may be a form. The engine keeps the fields of a form in
// memory, however long they are, so only its beginning can be read before it is authorized.
type form struct {
	io.Reader
	authorized bool
	left       int // bytes that may still be read before it is authorized
}

var errFormTooLong = errors.New("the fields of the form are too long")

func (f *form) Read(p []byte) (int, error) {
	if f.authorized {
		return f.Reader.Read(p)
	}
	if f.left == 0 {
		return 0, errFormTooLong
	}
	n, err := f.Reader.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}

// formKey is the key of a request's form in the context of the engine.
type formKey struct{}

// authorizeForm lets the rest of a request's form be read, if the request has one.
func authorizeForm(ctx context.Context) {
	if f, ok := ctx.Value(formKey{}).(*form); ok {
		f.authorized = true
	}
}

// limitForm bounds what is read of a request that may be a form, until authorizeForm is called.
// Once the request is handled, the caller calls restore, which gives the server its own reader
// back.
func limitForm(c *fasthttp.RequestCtx) (restore func()) {
	stream, kind := c.Request.BodyStream(), bytes.ToLower(bytes.TrimSpace(c.Request.Header.ContentType()))
	if stream == nil || !c.IsPost() || !bytes.HasPrefix(kind, []byte(fiber.MIMEMultipartForm)) {
		return func() {}
	}
	limited := &form{Reader: stream, left: maxUnauthorized}
	c.SetUserValue(formKey{}, limited)
	body := bodyStream(&c.Request)
	*body = limited
	return func() { *body = stream }
}

// bodyStream returns a pointer to the reader of a request's body. The request's own method to set
// the reader would close the one before.
func bodyStream(r *fasthttp.Request) *io.Reader {
	return (*io.Reader)(reflect.ValueOf(r).Elem().FieldByName("bodyStream").Addr().UnsafePointer())
}

// recovered is deferred while a request is handled. If that panics, it logs the panic and answers
// with an internal error.
func recovered(c *fasthttp.RequestCtx) {
	p := recover()
	if p == nil {
		return
	}
	slog.Error("request: panic", "method", string(c.Method()), "path", string(c.Path()), "panic", p, "stack", string(debug.Stack()))
	refuse(c, s3err.ErrInternalError)
}

// refuse answers a request in place of the engine, and closes its connection.
func refuse(c *fasthttp.RequestCtx, code s3err.ErrorCode) {
	refusal := s3err.GetAPIError(code)
	c.SetStatusCode(refusal.StatusCode())
	c.SetContentType(fiber.MIMEApplicationXML)
	c.SetBody(refusal.XMLBody("", ""))
	c.SetConnectionClose()
}
