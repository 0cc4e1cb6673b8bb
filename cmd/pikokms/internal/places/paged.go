package places

import (
	"context"
)

// paged are objects of which a page of what is directly below a folder can be asked for.
type paged interface {
	// page returns at most n keys. Those that end in a slash may be of folders. The token is where
	// the page begins, or empty, and next is that of the page that follows, if one does.
	page(ctx context.Context, folder string, token []byte, n int) (keys []Listed, next []byte, err error)
}
