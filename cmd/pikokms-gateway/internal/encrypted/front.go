package encrypted

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/controllers"
	"github.com/versity/versitygw/s3err"
)

// Options are what the engine's server needs for a Backend.
func Options() []s3api.Option {
	return []s3api.Option{
		s3api.WithMiddleware("/", controllers.WrapMiddleware(refuseForeignKeys, nil, nil)),
		s3api.WithMiddleware("/", patience{15 * time.Second, 15 * time.Second}.handle),
		s3api.WithMiddleware("/", correctDate),
	}
}

// foreignKeys are headers that ask for encryption under a key of the client's, or under a key of
// AWS KMS that the gateway does not choose.
var foreignKeys = []string{
	"X-Amz-Server-Side-Encryption-Customer-Algorithm", "X-Amz-Server-Side-Encryption-Customer-Key",
	"X-Amz-Copy-Source-Server-Side-Encryption-Customer-Algorithm", "X-Amz-Copy-Source-Server-Side-Encryption-Customer-Key",
	"X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id",
}

// refuseForeignKeys refuses requests with headers that the engine would ignore.
func refuseForeignKeys(ctx fiber.Ctx) error {
	for _, name := range foreignKeys {
		if ctx.Get(name) != "" {
			return s3err.GetNotImplementedErr(name, s3err.NmpAdditionalMessage("The gateway chooses the key."))
		}
	}
	return nil
}

// correctDate corrects the time in an answer to GetObjectAttributes. The engine does not write it
// as HTTP requires (RFC 9110, section 5.6.7), so AWS's SDK for Java could not read the answer.
func correctDate(ctx fiber.Ctx) error {
	const name = "Last-Modified"
	err := ctx.Next()
	header := &ctx.Response().Header
	if modified, wrong := time.Parse(time.ANSIC, string(header.Peek(name))); wrong == nil {
		header.Set(name, modified.Format(http.TimeFormat))
	}
	return err
}

// patience keeps clients waiting for the end of an upload. Joining the parts of a large one takes
// longer than clients wait for an answer, 60 seconds by default. As in S3, the answer then begins
// with status 200 and white space, and may end in an error (Amazon S3 API Reference,
// "CompleteMultipartUpload").
type patience struct{ first, interval time.Duration }

// writeTimeout bounds one write to a client that no longer reads.
const writeTimeout = 10 * time.Second

func (p patience) handle(ctx fiber.Ctx) error {
	if ctx.Method() != http.MethodPost || !ctx.Request().URI().QueryArgs().Has("uploadId") || !ctx.Request().Header.IsHTTP11() {
		return ctx.Next()
	}
	connection := ctx.RequestCtx().Conn()
	ended, wasStarted := make(chan struct{}), make(chan bool, 1)
	go func() {
		timer, started := time.NewTimer(p.first), false
		defer timer.Stop()
		for {
			select {
			case <-ended:
				wasStarted <- started
				return
			case <-timer.C:
			}
			text := chunk([]byte(" "))
			if !started {
				started = true
				text = []byte("HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
				text = append(text, chunk(xmlDeclaration)...)
			}
			send(connection, text) // if the client is gone, the upload is completed nevertheless
			timer.Reset(p.interval)
		}
	}()
	err := func() error {
		defer close(ended) // also if the engine panics
		return ctx.Next()
	}()
	if !<-wasStarted {
		return err
	}
	body := ctx.Response().Body()
	if err != nil {
		body = s3err.GetAPIError(s3err.ErrInternalError).XMLBody("", "")
	}
	send(connection, append(chunk(bytes.TrimPrefix(body, xmlDeclaration)), "0\r\n\r\n"...))
	ctx.RequestCtx().HijackSetNoResponse(true)
	ctx.RequestCtx().Hijack(func(net.Conn) {}) // which closes the connection
	return nil
}

// xmlDeclaration begins each answer in XML.
var xmlDeclaration = []byte(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")

// chunk returns a chunk of an answer (RFC 9112, section 7.1).
func chunk(content []byte) []byte {
	if len(content) == 0 {
		return nil // an empty chunk would end the answer
	}
	return fmt.Appendf(nil, "%x\r\n%s\r\n", len(content), content)
}

func send(connection net.Conn, text []byte) {
	_ = connection.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, _ = connection.Write(text)
}
