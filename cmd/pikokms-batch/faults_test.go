package main_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"piko.sh/pikokms"
	"piko.sh/pikokms/cmd/pikokms-batch/internal/runtimeapi"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
)

// kind is a way in which an object's task fails. Its name is the first part of the object's key.
type kind struct {
	name  string
	share int // of a hundred objects

	code, reason string // of the first attempt
	later        string // the code of an attempt after the faults are over, if there is one
}

var kinds = []kind{
	{"fine", 62, "Succeeded", "encrypted", ""},
	{"already", 4, "Succeeded", "already", ""},
	{"kms-throttled", 4, "TemporaryFailure", "ThrottlingException", "Succeeded"},
	{"kms-failing", 3, "TemporaryFailure", "KMSInternalException", "Succeeded"},
	{"kms-denied", 4, "PermanentFailure", "AccessDeniedException", ""},
	{"get-failing", 4, "TemporaryFailure", "503", "Succeeded"},
	{"get-cut", 3, "TemporaryFailure", "reading the object", "Succeeded"},
	{"get-stalled", 1, "TemporaryFailure", "time of the invocation ran out", "Succeeded"},
	{"put-failing", 4, "TemporaryFailure", "SlowDown", "Succeeded"},
	{"put-denied", 2, "PermanentFailure", "AccessDenied", ""},
	{"answer-lost", 2, "Succeeded", "encrypted: ", ""}, // the object is stored
	{"replaced-meanwhile", 2, "TemporaryFailure", "changed meanwhile", "Succeeded"},
	{"deleted", 2, "PermanentFailure", "no such object", ""},
	{"another-version", 2, "PermanentFailure", "not the current one", ""},
	{"large", 1, "PermanentFailure", "run pikokms encrypt", ""},
}

const (
	boundName = "photos" // the name of the bucket that the hosts of the objects state
	newer     = "what was put meanwhile"
)

// failingS3 is LocalStack behind a proxy that makes requests fail by the kinds of their objects.
type failingS3 struct {
	url     string
	healed  atomic.Bool
	bucket  *bucket
	forward *httputil.ReverseProxy
}

func newFailingS3(t *testing.T, b *bucket) *failingS3 {
	t.Helper()
	backend, err := url.Parse(emulator.LocalStack(t))
	require.NoError(t, err)
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	f := &failingS3{bucket: b, forward: &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(backend) },
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // as if the connection broke
		},
	}}
	server := httptest.NewServer(f)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		transport.CloseIdleConnections()
	})
	f.url = server.URL
	return f
}

func (f *failingS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, code string) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>a fault</Message></Error>", code)
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"+f.bucket.name+"/"), "/")
	if f.healed.Load() || r.URL.Query().Has("tagging") {
		name = ""
	}
	switch r.Method + " " + name {
	case "GET get-failing":
		refuse(http.StatusServiceUnavailable, "ServiceUnavailable")
	case "GET get-cut":
		var whole httptest.ResponseRecorder
		whole.Body = new(bytes.Buffer)
		f.forward.ServeHTTP(&whole, r)
		for header, values := range whole.Header() {
			w.Header()[header] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(whole.Body.Len()))
		w.WriteHeader(whole.Code)
		_, _ = w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "GET get-stalled":
		<-r.Context().Done()
	case "PUT put-failing":
		refuse(http.StatusServiceUnavailable, "SlowDown")
	case "PUT put-denied":
		refuse(http.StatusForbidden, "AccessDenied")
	case "PUT answer-lost":
		f.forward.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case "PUT replaced-meanwhile":
		if _, err := f.bucket.put(strings.TrimPrefix(r.URL.Path, "/"+f.bucket.name+"/"), []byte(newer)); err != nil {
			panic(err)
		}
		f.forward.ServeHTTP(w, r)
	default:
		f.forward.ServeHTTP(w, r)
	}
}

// object is an object of the test, with its task.
type object struct {
	task
	kind
	content []byte
	stored  []byte // as it was put
	result  events.S3BatchJobResult
}

// TestTasksUnderFaults runs a job whose objects meet whatever can go wrong, in any order and in
// several sandboxes. Each task's code must be right, and each object what its code says. Then the
// faults are over, and S3 tries the temporary failures again, and some tasks that succeeded.
//
// There are 100 tasks, or as many as PIKOKMS_TASKS says.
func TestTasksUnderFaults(t *testing.T) {
	count := 100
	if text := os.Getenv("PIKOKMS_TASKS"); text != "" {
		var err error
		count, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	binary := bootstrap(t)
	b := newBucket(t, true)
	s3Faults := newFailingS3(t, b)
	kms := kmstest.NewServer(t)
	key := kms.CreateKey(kmstest.Key{})
	keyURL := "awskms:///" + key.ARN + "?endpoint=" + url.QueryEscape(kms.URL)
	host := b.host(t, keyURL, pikokms.BindObjectName(boundName))
	objects := prepare(t, b, host, count)
	generated := kms.Calls("GenerateDataKey")
	inject(kms)

	sandboxes := make([]*runtimeapi.Sandbox, 10) // which mostly wait to try again
	for i := range sandboxes {
		sandboxes[i], _ = start(t, binary, s3Faults.url, map[string]string{
			"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": keyURL, "PIKOKMS_BIND_OBJECT_NAMES": boundName, "PIKOKMS_MB_PER_SECOND": "0.01", "AWS_MAX_ATTEMPTS": "2",
		})
	}
	begin := time.Now()
	run(t, sandboxes, objects)
	t.Logf("%d tasks under faults in %v, %d calls of KMS", len(objects), time.Since(begin).Round(time.Millisecond), kms.Calls("GenerateDataKey")-generated)
	codes := make(map[string]int)
	for _, o := range objects {
		codes[o.result.ResultCode]++
		require.Equal(t, o.code, o.result.ResultCode, "%s: %s", o.key, o.result.ResultString)
		require.Contains(t, o.result.ResultString, o.reason, o.key)
	}
	t.Logf("codes: %v", codes)
	kms.Heal()
	for _, o := range objects {
		if o.name == "replaced-meanwhile" {
			o.content, o.stored = []byte(newer), []byte(newer)
		}
		o.check(t, b, host, o.code == "Succeeded")
	}

	// S3 tries again, and it may repeat what succeeded.
	s3Faults.healed.Store(true)
	var again []*object
	for i, o := range objects {
		if o.later != "" || o.code == "Succeeded" && i%4 == 0 {
			again = append(again, o)
		}
	}
	generated = kms.Calls("GenerateDataKey")
	begin = time.Now()
	run(t, sandboxes, again)
	t.Logf("%d tasks again in %v, %d calls of KMS", len(again), time.Since(begin).Round(time.Millisecond), kms.Calls("GenerateDataKey")-generated)
	wanted := 0
	for _, o := range again {
		require.Equal(t, "Succeeded", o.result.ResultCode, "%s: %s", o.key, o.result.ResultString)
		if strings.HasPrefix(o.result.ResultString, "encrypted") {
			wanted++
		}
		o.check(t, b, host, true)
	}
	require.Equal(t, wanted, kms.Calls("GenerateDataKey")-generated, "one call for each object that was encrypted, none for the others")
}

// prepare puts the objects, and returns them in any order.
func prepare(t *testing.T, b *bucket, host *pikokms.Host, count int) []*object {
	t.Helper()
	var objects []*object
	for _, k := range kinds {
		for i := range max(1, count*k.share/100) {
			objects = append(objects, &object{kind: k, task: task{bucket: b.name, key: fmt.Sprintf("%s/%d of %d+é", k.name, i, count)}, content: noise(100 + rand.IntN(20_000))})
		}
	}
	var putting errgroup.Group
	putting.SetLimit(8)
	for _, o := range objects {
		putting.Go(func() (err error) {
			switch o.name {
			case "large":
				o.content = noise(700_000)
			case "get-stalled":
				o.content = o.content[:100] // which is not too large for its short time
			}
			o.stored = o.content
			if o.name == "already" {
				encrypted, err := host.EncryptObject(context.Background(), o.key, bytes.NewReader(o.content), nil)
				if err != nil {
					return err
				}
				if o.stored, err = io.ReadAll(encrypted); err != nil {
					return err
				}
			}
			o.version, err = b.put(o.key, o.stored, func(in *s3.PutObjectInput) {
				in.ContentType, in.Metadata = aws.String("text/x-"+o.name), map[string]string{"name": o.name}
			})
			switch o.name {
			case "another-version":
				o.stored = []byte("of another version")
				_, err = b.put(o.key, o.stored)
			case "deleted":
				_, err = b.client.DeleteObject(context.Background(), &s3.DeleteObjectInput{Bucket: &b.name, Key: &o.key})
			case "replaced-meanwhile", "fine":
				if o.name != "fine" || rand.IntN(2) == 0 {
					o.version = "" // a manifest without versions
				}
			}
			return err
		})
	}
	require.NoError(t, putting.Wait())
	rand.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
	return apart(objects)
}

// apart puts a good object after each outage of KMS, while there are any. Several outages in a row
// would open a sandbox's circuit breaker, which TestBreaker tests.
func apart(objects []*object) []*object {
	var outages, others, mixed []*object
	for _, o := range objects {
		if o.name == "kms-throttled" || o.name == "kms-failing" {
			outages = append(outages, o)
		} else {
			others = append(others, o)
		}
	}
	every := len(others)/max(1, len(outages)) + 1
	for i, o := range others {
		mixed = append(mixed, o)
		if i%every == 0 && len(outages) > 0 {
			mixed, outages = append(mixed, outages[0]), outages[1:]
		}
	}
	return append(mixed, outages...)
}

// inject makes KMS fail, by the names that data keys are bound to.
func inject(kms *kmstest.Server) {
	for name, action := range map[string]kmstest.Action{
		"kms-throttled": kmstest.Throttle(), "kms-failing": kmstest.Error("KMSInternalException", "a fault"), "kms-denied": kmstest.Deny(),
	} {
		kms.Inject(kmstest.Fault{Do: action, When: func(r kmstest.Request) bool {
			return strings.HasPrefix(r.EncryptionContext[pikokms.PairObject], name+"/")
		}})
	}
}

// run makes the sandboxes do the tasks of objects, each of them one at a time.
func run(t *testing.T, sandboxes []*runtimeapi.Sandbox, objects []*object) {
	t.Helper()
	tasks := make(chan *object)
	failures := make(chan error, len(objects))
	var working sync.WaitGroup
	for _, sandbox := range sandboxes {
		working.Go(func() {
			for o := range tasks {
				timeout := time.Minute
				if o.name == "get-stalled" {
					timeout = 5 * time.Second
				}
				results, err := tryInvoke(sandbox, request(o.task), timeout)
				if err != nil {
					failures <- fmt.Errorf("%s: %w", o.key, err)
					continue
				}
				o.result = results[0]
			}
		})
	}
	for _, o := range objects {
		tasks <- o
	}
	close(tasks)
	working.Wait()
	close(failures)
	for err := range failures {
		require.NoError(t, err)
	}
}

// check checks that an object is encrypted, or as it was put.
func (o *object) check(t *testing.T, b *bucket, host *pikokms.Host, encrypted bool) {
	t.Helper()
	if o.name == "deleted" {
		_, err := b.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &b.name, Key: &o.key})
		require.ErrorContains(t, err, "NoSuchKey")
		return
	}
	stored, out := b.get(t, o.key, "")
	if !encrypted {
		require.True(t, bytes.Equal(o.stored, stored), "%s is not as it was: %d bytes", o.key, len(stored))
		return
	}
	if len(o.content) > 32 {
		require.False(t, bytes.Contains(stored, o.content[:32]), o.key)
	}
	require.True(t, bytes.Equal(o.content, read(t, host, o.key)), o.key)
	if o.name != "replaced-meanwhile" {
		require.Equal(t, "text/x-"+o.name, aws.ToString(out.ContentType), o.key)
		require.Equal(t, o.name, out.Metadata["name"], o.key)
	}
}

// TestBreaker puts another server in place of KMS. The function does not ask it for each object,
// and S3 tries each task again.
func TestBreaker(t *testing.T) {
	b := newBucket(t, false)
	kms := kmstest.NewServer(t)
	key := kms.CreateKey(kmstest.Key{})
	kms.Inject(kmstest.Fault{Do: kmstest.Body(http.StatusNotFound, "text/html", "<html>no such page</html>")})
	keyURL := "awskms:///" + key.ARN + "?endpoint=" + url.QueryEscape(kms.URL)
	sandbox, _ := start(t, bootstrap(t), emulator.LocalStack(t), map[string]string{"PIKOKMS_JOB": "encrypt", "PIKOKMS_KEY": keyURL})
	var tasks []task
	for i := range 20 {
		tasks = append(tasks, task{bucket: b.name, key: strconv.Itoa(i)})
		b.mustPut(t, strconv.Itoa(i), []byte("content"))
	}
	for i, result := range invoke(t, sandbox, request(tasks...), time.Minute) {
		require.Equal(t, "TemporaryFailure", result.ResultCode, result.ResultString)
		if i >= 5 {
			require.Contains(t, result.ResultString, "circuit breaker is open")
		}
	}
	require.Equal(t, 5, kms.Calls(""))
	for i := range 20 {
		stored, _ := b.get(t, strconv.Itoa(i), "")
		require.Equal(t, "content", string(stored))
	}
}
