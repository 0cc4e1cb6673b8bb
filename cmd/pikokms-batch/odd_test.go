package main_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/events"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms/cmd/pikokms-batch/internal/oddkeys"
	"piko.sh/pikokms/cmd/pikokms-batch/internal/runtimeapi"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
)

// encodings are ways in which manifests encode keys: as S3 does, as people do, and all of it.
var encodings = []func(string) string{
	url.QueryEscape,
	func(key string) string { return strings.ReplaceAll(url.PathEscape(key), "+", "%2B") },
	func(key string) string {
		var b strings.Builder
		for _, c := range []byte(key) {
			fmt.Fprintf(&b, "%%%02x", c)
		}
		return b.String()
	},
}

// TestOddKeys works on objects whose keys may be taken for other keys on the way. Each task comes
// twice at once, to two sandboxes. Each object is encrypted, moved and verified, and no other one
// is touched. There are 40 keys, or as many as PIKOKMS_TASKS says.
func TestOddKeys(t *testing.T) {
	count := 40
	if text := os.Getenv("PIKOKMS_TASKS"); text != "" {
		var err error
		count, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	b := newBucketOf(t, emulator.Moto(t), true)
	kms := kmstest.NewServer(t)
	oldURL, newURL := newKEY(kms), newKEY(kms)
	sandboxes := make([]*runtimeapi.Sandbox, 4)
	for i := range sandboxes {
		sandboxes[i], _ = start(t, bootstrap(t), b.endpoint, map[string]string{"PIKOKMS_KEY": newURL, "PIKOKMS_OLD_KEYS": oldURL})
	}
	first, _ := start(t, bootstrap(t), b.endpoint, map[string]string{"PIKOKMS_KEY": oldURL})
	firstToo, _ := start(t, bootstrap(t), b.endpoint, map[string]string{"PIKOKMS_KEY": oldURL})

	contents := make(map[string][]byte)
	bystanders := make(map[string][]byte)
	var refused []string
	for _, key := range oddkeys.Some(count) {
		content := noise(1 + rand.IntN(3000))
		if _, err := b.put(key, content); !utf8.ValidString(key) || err != nil {
			refused = append(refused, key) // by S3, or by this one
			continue
		}
		contents[key] = content
	}
	// These keys are the same as others if they are decoded once more, or not at all.
	for key := range contents {
		for _, other := range []string{url.QueryEscape(key), strings.ReplaceAll(key, "+", " "), strings.TrimSpace(key), strings.TrimPrefix(key, "/")} {
			if _, taken := contents[other]; taken || other == "" || len(other) > 1024 || bystanders[other] != nil {
				continue
			}
			if _, err := b.put(other, []byte("a bystander")); err == nil {
				bystanders[other] = []byte("a bystander")
			}
		}
	}
	t.Logf("%d keys and %d bystanders; S3 refused %.60q", len(contents), len(bystanders), refused)
	table := make(map[string]int)
	var mu sync.Mutex
	each := func(job string, a, z *runtimeapi.Sandbox) {
		t.Helper()
		pairs := make(chan [2]*runtimeapi.Sandbox, 2)
		pairs <- [2]*runtimeapi.Sandbox{a, z}
		if job != "encrypt" {
			pairs <- [2]*runtimeapi.Sandbox{sandboxes[2], sandboxes[3]}
		}
		var working errgroup.Group
		working.SetLimit(cap(pairs))
		for i, key := range slices.Sorted(maps.Keys(contents)) {
			working.Go(func() error {
				pair := <-pairs
				defer func() { pairs <- pair }()
				arguments := map[string]string{"job": job}
				encoded := encodings[i%len(encodings)](key)
				if plus, err := url.PathUnescape(encoded); err != nil || plus != key && (contents[plus] != nil || bystanders[plus] != nil) {
					got, err := tryInvoke(pair[0], request2(arguments, task{bucket: b.name, key: key, encoded: encoded}), minute)
					if err != nil || got[0].ResultCode != "PermanentFailure" || !strings.Contains(got[0].ResultString, "there are both") {
						return fmt.Errorf("%s of %.60q, which may be %.60q: %v %v", job, key, plus, got, err)
					}
					mu.Lock()
					table[job+" PermanentFailure: two objects"]++
					mu.Unlock()
					encoded = encodings[1](key)
				}
				e := request2(arguments, task{bucket: b.name, key: key, encoded: encoded})
				var results [2]events.S3BatchJobResult
				var both errgroup.Group
				for i, sandbox := range pair {
					both.Go(func() error {
						got, err := tryInvoke(sandbox, e, minute)
						if err == nil {
							results[i] = got[0]
						}
						return err
					})
				}
				if err := both.Wait(); err != nil {
					return err
				}
				if results[0].ResultCode != "Succeeded" && results[1].ResultCode != "Succeeded" {
					return fmt.Errorf("%s of %.60q: %s %.300q, %s %.300q", job, key, results[0].ResultCode, results[0].ResultString, results[1].ResultCode, results[1].ResultString)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, r := range results {
					// The task that lost the race is tried again, and then finds the object done.
					if r.ResultCode != "Succeeded" && !strings.Contains(r.ResultString, "changed meanwhile") {
						return fmt.Errorf("%s of %.60q: %s %.300q", job, key, r.ResultCode, r.ResultString)
					}
					table[job+" "+r.ResultCode]++
				}
				return nil
			})
		}
		require.NoError(t, working.Wait())
	}
	each("encrypt", first, firstToo)
	each("verify", sandboxes[0], sandboxes[1])
	each("rewrap", sandboxes[0], sandboxes[1])
	each("verify", sandboxes[0], sandboxes[1])
	t.Logf("%v", table)
	require.Equal(t, 4*len(contents), table["verify Succeeded"])
	host := b.host(t, newURL)
	for key, content := range contents {
		stored, _ := b.get(t, key, "")
		require.True(t, bytes.HasPrefix(stored, []byte{2, 4, 0x78}), "%q", key)
		require.Equal(t, content, read(t, host, key), "%q", key)
	}
	for key, content := range bystanders {
		stored, _ := b.get(t, key, "")
		require.Equal(t, content, stored, "%q", key)
	}
}

// TestSlowMinutes works with an S3 that is slow for a while. The task fails temporarily and says
// how much it read. Later the same instance does the same object, and larger ones.
func TestSlowMinutes(t *testing.T) {
	const size = 24 << 20
	var slow atomic.Bool
	content := noise(size)
	storage := behind(t, "http://127.0.0.1:1", func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("ETag", `"5d41402abc4b2a76b9719d911017c592"`)
		switch {
		case r.URL.Query().Has("tagging"):
			_, _ = w.Write([]byte("<Tagging><TagSet></TagSet></Tagging>"))
		case r.URL.Query().Has("ownershipControls"):
			_, _ = w.Write([]byte("<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>"))
		case r.Method == http.MethodPost && r.URL.Query().Has("uploads"):
			_, _ = w.Write([]byte("<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"))
		case r.Method == http.MethodPost:
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = w.Write([]byte(`<CompleteMultipartUploadResult><ETag>"a-3"</ETag></CompleteMultipartUploadResult>`))
		case r.Method == http.MethodPut:
			_, _ = io.Copy(io.Discard, r.Body)
		case strings.HasSuffix(r.URL.Path, ".instruction"):
			w.WriteHeader(http.StatusNotFound)
		case r.Method == http.MethodHead:
			w.Header().Set("Content-Length", strconv.Itoa(size))
		case r.Method == http.MethodGet:
			w.Header().Set("Content-Length", strconv.Itoa(size))
			_, _ = w.Write(content[:20<<20])
			if slow.Load() {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				return
			}
			_, _ = w.Write(content[20<<20:])
		}
	})
	kms := kmstest.NewServer(t)
	sandbox, _ := start(t, bootstrap(t), storage, map[string]string{"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": newKEY(kms)})
	job := request(task{bucket: "photos", key: "large"})
	slow.Store(true)
	for range 2 {
		result := invoke(t, sandbox, job, 8*time.Second)[0]
		require.Equal(t, "TemporaryFailure", result.ResultCode, result.ResultString)
		require.Contains(t, result.ResultString, "ran out when 0.02 of 0.03 GB were read, at ")
		require.Contains(t, result.ResultString, "; run pikokms encrypt -k 'awskms:///")
	}
	slow.Store(false)
	result := invoke(t, sandbox, job, minute)[0]
	require.Equal(t, "Succeeded", result.ResultCode, result.ResultString)
}
