package blobstorage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"sync"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/transfer"
)

// upload is an object to be stored.
type upload struct {
	bucket  *bucket
	ctx     context.Context
	key     string
	options blob.WriterOptions
}

func (b *bucket) NewTypedWriter(ctx context.Context, key, contentType string, options *driver.WriterOptions) (driver.Writer, error) {
	if _, taken := options.Metadata[transfer.HeaderSizeKey]; taken {
		return nil, fmt.Errorf("%w: %q is the encryption's own", errReservedMetadata, transfer.HeaderSizeKey)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w := &writer{cancel: cancel, upload: upload{b, ctx, key, blob.WriterOptions{
		BufferSize: options.BufferSize, MaxConcurrency: options.MaxConcurrency,
		CacheControl: options.CacheControl, ContentDisposition: options.ContentDisposition, ContentEncoding: options.ContentEncoding,
		ContentLanguage: options.ContentLanguage, ContentType: contentType, DisableContentTypeDetection: true,
		Metadata: maps.Clone(options.Metadata), BeforeWrite: options.BeforeWrite, IfNotExist: options.IfNotExist,
	}}}
	// If the writer is dropped without Close, the upload that it began is canceled.
	runtime.AddCleanup(w, func(cancel context.CancelCauseFunc) { cancel(errDropped) }, cancel)
	return w, nil
}

var errDropped = errors.New("blobstorage: a writer was dropped and not closed")

// store encrypts content and stores it.
func (u *upload) store(content io.Reader) error {
	stored, err := u.bucket.host.EncryptObject(u.ctx, u.key, content, nil)
	if err != nil {
		return err
	}
	return u.put(stored)
}

// put stores an encrypted object.
func (u *upload) put(stored *message.EncryptReader) error {
	options := u.options
	options.Metadata = transfer.SetHeaderSize(options.Metadata, transfer.HeaderSizeKey, stored)
	options.BufferSize = bufferSize(options.BufferSize, stored)
	return put(u.ctx, u.bucket.inner, u.key, stored, &options)
}

// bufferSize returns the size of the object's parts: asked, or more if the object would otherwise
// have more parts than S3 allows.
func bufferSize(asked int, stored *message.EncryptReader) int {
	n, known := stored.ContentLength()
	if !known {
		return asked
	}
	return max(asked, transfer.PartSize(n))
}

// writer is a driver.Writer. The transformers read what is written to it from a pipe. They run in a
// goroutine that begins with the first Write and ends with Close, with the context, or when the
// writer is dropped.
type writer struct {
	upload
	cancel context.CancelCauseFunc
	close  func() error // wrapped by sync.OnceValue after the first Write

	pipe *io.PipeWriter // nil before the first Write
	done chan error
}

func (w *writer) Write(p []byte) (int, error) {
	if w.pipe == nil {
		w.start()
	}
	return w.pipe.Write(p)
}

func (w *writer) start() {
	source, pipe := io.Pipe()
	w.pipe, w.done = pipe, make(chan error, 1)
	// The goroutine refers to the upload alone. If it referred to the writer, a dropped writer
	// would never be collected.
	u, done := w.upload, w.done
	stop := context.AfterFunc(u.ctx, func() { _ = source.CloseWithError(context.Cause(u.ctx)) })
	go func() {
		err := u.store(source)
		stop()
		_ = source.CloseWithError(err) // if the storage failed, a waiting Write returns
		done <- err
	}()
}

// Upload stores what r holds. If r fails, nothing is stored.
func (w *writer) Upload(r io.Reader) error {
	err := w.store(r)
	if err == nil {
		err = context.Cause(w.ctx)
	}
	w.close = sync.OnceValue(func() error { return err })
	return err
}

// Close stores the object, or drops it if the context has ended. A second Close returns what the
// first one returned.
func (w *writer) Close() error {
	if w.close == nil {
		w.close = sync.OnceValue(w.finish)
	}
	defer w.cancel(nil)
	return w.close()
}

func (w *writer) finish() error {
	if w.pipe == nil && w.ctx.Err() == nil {
		w.start()
	}
	if err := context.Cause(w.ctx); err != nil {
		if w.pipe != nil {
			_ = w.pipe.CloseWithError(err) // always nil
			<-w.done
		}
		return err
	}
	_ = w.pipe.Close() // always nil
	return <-w.done
}
