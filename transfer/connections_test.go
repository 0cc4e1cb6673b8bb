package transfer_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/transfer"
)

// TestRangesShareAConnection reads ranges over HTTP, of which each fetch gets somewhat more than is
// read.
func TestRangesShareAConnection(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	fetch := func(offset, length int64) (io.ReadCloser, error) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			return nil, err
		}
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
		answer, err := server.Client().Do(request)
		if err != nil {
			return nil, err
		}
		return answer.Body, nil
	}
	for i := range int64(10) {
		o := transfer.NewRangeObject(int64(len(content)), time.Time{}, nil, fetch)
		o.Expect(1 << 20)
		got := make([]byte, 1<<20)
		_, err := o.ReadAt(got, 1000*i)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content[1000*i:1000*i+1<<20], got))
		require.NoError(t, o.Close())
	}
	require.EqualValues(t, 1, connections.Load())
}
