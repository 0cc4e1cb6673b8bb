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

// engine gives access to the HTTP server of the S3 engine, which has no options for it.
type engine struct{ server *s3api.S3ApiServer }

// option is an option of the engine, which passes it the engine's server.
func (e *engine) option(s *s3api.S3ApiServer) { e.server = s }

// check returns an error if this version of the engine does not have its HTTP server where adjust
// looks for it, or its HTTP library the body of a request.
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
// authorized, and writes files in it of more than 16 MiB to temporary files, as plaintext. Other
// content of that type is an error. So forms are left unparsed: the engine parses them itself,
// without files.
//
// Three kinds of requests get status 400, which would otherwise be internal errors: those that are
// no HTTP, those whose body ends early, and those whose URL or host can't be parsed.
func (e *engine) adjust() {
	server := (*fiber.App)(reflect.ValueOf(e.server).Elem().FieldByName("app").UnsafePointer()).Server()
	server.DisablePreParseMultipartForm = true
	fail, handle := server.ErrorHandler, server.Handler
	server.ErrorHandler = func(c *fasthttp.RequestCtx, err error) {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			refuse(c, s3err.ErrIncompleteBody)
			return
		}
		fail(c, err)
		if c.Response.StatusCode() >= http.StatusInternalServerError {
			refuse(c, s3err.ErrCannotParseHTTPRequest)
		}
	}
	server.Handler = func(c *fasthttp.RequestCtx) {
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

// form is a form whose fields the engine keeps in memory, however long they are.
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

// authorizeForm lets the rest of a request's form be read, if it has one.
func authorizeForm(ctx context.Context) {
	if f, ok := ctx.Value(formKey{}).(*form); ok && !f.authorized {
		f.authorized = true
	}
}

// limitForm bounds what is read of a request that may be a form until authorizeForm is called. The
// caller calls restore once the request is handled, which gives the server its own reader back.
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

// bodyStream returns a pointer to the reader of a request's body. The request's own method to set a
// reader would close the one before.
func bodyStream(r *fasthttp.Request) *io.Reader {
	return (*io.Reader)(reflect.ValueOf(r).Elem().FieldByName("bodyStream").Addr().UnsafePointer())
}

// recovered answers with an internal error if the handling of a request panics, and logs the panic.
// It is deferred.
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
