package transfer

import (
	"cmp"
	"context"
	"io"
)

// Upload calls send, which uploads content in the context that it gets. If content fails, that
// context ends before send can read further: the service drops the upload, rather than store it as
// far as it went. Upload then returns content's error, and otherwise send's. Content is read as by
// NewReader.
func Upload(ctx context.Context, content io.Reader, send func(ctx context.Context, content io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	u := &uploaded{content: NewReader(content), drop: cancel}
	err := send(ctx, u)
	return cmp.Or(u.failed, err)
}

// uploaded is the content of an upload.
type uploaded struct {
	content io.Reader
	drop    context.CancelFunc // ends the upload's context
	failed  error
}

func (u *uploaded) Read(p []byte) (int, error) {
	n, err := u.content.Read(p)
	if err != nil && err != io.EOF {
		u.failed = err
		u.drop()
	}
	return n, err
}
