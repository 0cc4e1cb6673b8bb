package main

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"

	"github.com/gofiber/fiber/v3"
	"github.com/valyala/fasthttp"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3err"
)

// engine is the engine's server, of whose HTTP server it lets us set nothing.
type engine struct{ server *s3api.S3ApiServer }

// option has the engine's server remembered.
func (e *engine) option(s *s3api.S3ApiServer) { e.server = s }

// check reports whether this version of the engine has its HTTP server where adjust looks for it.
func (e *engine) check() error {
	field, ok := reflect.TypeFor[s3api.S3ApiServer]().FieldByName("app")
	if !ok || field.Type != reflect.TypeFor[*fiber.App]() {
		return errors.New("the HTTP server of this version of versitygw can't be adjusted; build the gateway with the version in its go.mod")
	}
	return nil
}

// adjust changes the HTTP server. It is called when that listens and does not serve yet.
//
// By default the server parses each request whose type is multipart/form-data before it is
// authorized, and writes files in it of more than 16 MiB to temporary files, as plaintext. Other
// content of that type is an error. So forms are left unparsed: the engine parses them itself,
// without files.
//
// What is no request, one whose body ends early, and one whose URL can't be parsed would be internal
// errors.
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
		handle(c)
	}
}

// refuse answers a request that the engine does not get, and closes its connection.
func refuse(c *fasthttp.RequestCtx, code s3err.ErrorCode) {
	refusal := s3err.GetAPIError(code)
	c.SetStatusCode(refusal.StatusCode())
	c.SetContentType(fiber.MIMEApplicationXML)
	c.SetBody(refusal.XMLBody("", ""))
	c.SetConnectionClose()
}
