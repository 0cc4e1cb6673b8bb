package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestHandler(t *testing.T) {
	host, err := newHost(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	video := make([]byte, 3_000_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(video) // never fails
	if err := host.Put(t.Context(), "video.mp4", bytes.NewReader(video)); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler(host, "video.mp4"))
	defer server.Close()
	for _, test := range []struct {
		ranges string
		status int
		want   []byte
	}{
		{"", http.StatusOK, video},
		{"bytes=0-99", http.StatusPartialContent, video[:100]},
		{"bytes=1000000-2000000", http.StatusPartialContent, video[1_000_000:2_000_001]},
		{"bytes=-500", http.StatusPartialContent, video[len(video)-500:]},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.ranges != "" {
			request.Header.Set("Range", test.ranges)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != test.status || !bytes.Equal(got, test.want) {
			t.Errorf("range %q: status %d, %d bytes, %v", test.ranges, response.StatusCode, len(got), err)
		}
		if kind := response.Header.Get("Content-Type"); kind != "video/mp4" {
			t.Errorf("content type %q", kind)
		}
	}
	missing := httptest.NewRecorder()
	handler(host, "none").ServeHTTP(missing, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	if missing.Code != http.StatusNotFound {
		t.Errorf("status %d for a missing object", missing.Code)
	}
}
