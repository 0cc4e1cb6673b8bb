package verbs

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/telemetry"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// allFaults tries everything. Without it, each command line is broken in only some of the ways, and
// without retries of the AWS SDK, which waits for up to a second before each.
var allFaults = flag.Bool("faults.all", false, "break each request of each command line in each way, also with the retries of the AWS SDK")

// The ways in which a request fails.
const (
	notServed  = "not served"  // the connection is reset before the request is carried out
	answerLost = "answer lost" // it is reset afterwards
	answerCut  = "answer cut"  // and after half of the answer
	broken     = "500"
	denied     = "403"
)

var waysOfRequests = []string{notServed, answerLost, answerCut, broken, denied}

// breaking passes requests on to S3 and to KMS, and breaks those that calls selects.
type breaking struct {
	s3    *s3Server
	kms   http.Handler
	mu    sync.Mutex // of what follows, and of what is in S3
	calls *adversary.Calls
	way   string
	spare bool     // requests to KMS are broken only by what the AWS SDK does not try again
	only  string   // the method of requests that are broken; empty means any
	broke []string // the requests that were broken
}

// selectCalls selects the requests that are broken from here on.
func (b *breaking) selectCalls(calls *adversary.Calls) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = calls
}

// breaksBy sets how requests of a method are broken, or requests of any if it is empty.
func (b *breaking) breaksBy(way, method string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.way, b.only = way, method
}

// ofS3 names a request to S3: by its method, or by what it asks for if that is not an object's
// content. It is "again" if it puts a new object a second time, which s3storage does once to see
// whether that is refused.
func (b *breaking) ofS3(r *http.Request) string {
	_, stored := b.s3.objects[r.URL.Path]
	verb := r.Method
	switch query := r.URL.Query(); {
	case query.Has("list-type"):
		verb = "list"
	case query.Has("tagging"):
		verb = "tags"
	case query.Has("acl"):
		verb = "acl"
	case query.Has("ownershipControls"):
		verb = "owners"
	case stored && r.Header.Get("If-None-Match") == "*":
		verb = "again"
	}
	return verb + " " + r.URL.Path
}

func (b *breaking) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Neither reading nor answering keeps another request waiting: a command may read an object and
	// ask for its key between.
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the command gave up
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	if b.breakOrServe(w, answer, r) {
		return
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// breakOrServe breaks a request and returns true, or serves it to answer.
func (b *breaking) breakOrServe(w http.ResponseWriter, answer http.ResponseWriter, r *http.Request) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	target := r.Header.Get("X-Amz-Target")
	handler, what := http.Handler(b.s3), b.ofS3(r)
	if target != "" {
		handler, what = b.kms, target
	}
	if target != "" && b.spare && b.way != denied || b.only != "" && r.Method != b.only || b.calls.Call(what) == nil {
		handler.ServeHTTP(answer, r)
		return false
	}
	b.broke = append(b.broke, what)
	switch b.way {
	case broken, denied:
		status, code := http.StatusInternalServerError, "InternalError"
		if b.way == denied {
			status, code = http.StatusForbidden, "AccessDenied"
		}
		if target != "" {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"__type":%q,"message":"fault"}`, map[string]string{broken: "KMSInternalException", denied: "AccessDeniedException"}[b.way])
			return true
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>fault</Message></Error>", code)
		}
		return true
	}
	var sent bytes.Buffer // the answer, of which the command gets nothing or a part
	if b.way != notServed {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, r)
		whole := recorder.Result()
		whole.Request = r
		_ = whole.Write(&sent) // a buffer takes all
	}
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	if b.way == answerCut {
		whole := sent.Bytes()
		end := len(whole) / 2
		if head := bytes.Index(whole, []byte("\r\n\r\n")) + 4; head < len(whole) {
			end = head + (len(whole)-head)/2
		}
		_, _ = connection.Write(whole[:end])
		return true
	}
	_ = connection.(*net.TCPConn).SetLinger(0) // a reset, not an end
	return true
}

// faulty has what commands under faults work on: buckets, folders of two objects, and KMS keys.
type faulty struct {
	*breaking
	url        string
	retries    string // a parameter of URLs of buckets
	dir        string // a folder with what is below
	kms        *kmstest.Server
	old, next  string // KEYs
	plain      map[string][]byte
	sealed     map[string][]byte
	decrypters map[string]*message.Decrypter // by KEY
}

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CA_BUNDLE", "")
	t.Setenv(keys.Variable, "")
	f := &faulty{dir: t.TempDir(), kms: kmstest.NewServer(t), decrypters: make(map[string]*message.Decrypter)}
	at, err := url.Parse(f.kms.URL)
	require.NoError(t, err)
	once := &http.Transport{DisableKeepAlives: true} // so that no connection stays
	proxy := httputil.NewSingleHostReverseProxy(at)
	proxy.Transport = once
	f.breaking = &breaking{s3: &s3Server{objects: make(map[string]s3Object)}, kms: proxy, calls: &adversary.Calls{}}
	server := httptest.NewUnstartedServer(f.breaking)
	server.Config.SetKeepAlivesEnabled(false) // net/http tries again by itself what fails on a used connection
	server.Start()
	t.Cleanup(server.Close)
	f.url = server.URL
	keyrings := make(map[string]provider.Keyring)
	for _, k := range []*string{&f.old, &f.next} {
		key := f.kms.CreateKey(kmstest.Key{})
		client := kms.New(kms.Options{
			Region: key.Region, BaseEndpoint: &f.kms.URL, HTTPClient: &http.Client{Transport: once},
			Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
		})
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: client})
		require.NoError(t, err)
		*k = "awskms:///" + key.ARN + "?endpoint=" + f.url
		keyrings[*k], f.decrypters[*k] = p, &message.Decrypter{Keyrings: []provider.Unwrapper{p}}
	}
	f.content()
	f.seal(t, keyrings[f.old])
	return f
}

func (f *faulty) content() {
	f.plain = map[string][]byte{"a": []byte("the first"), "sub/b": bytes.Repeat([]byte("the second\n"), 10_000)}
}

// seal encrypts what the objects hold.
func (f *faulty) seal(t *testing.T, key provider.Keyring) {
	t.Helper()
	f.sealed = make(map[string][]byte)
	for name, content := range f.plain {
		sealed, err := (&message.Encrypter{Keyring: key}).Encrypt(t.Context(), content, nil)
		require.NoError(t, err)
		f.sealed[name] = sealed
	}
}

// bucket returns the URL of a bucket, or of one object.
func (f *faulty) bucket(path string) string {
	return "s3://" + path + "?region=us-east-1&use_path_style=true" + f.retries + "&endpoint=" + f.url
}

// place returns a place to read or write: a bucket, a folder, or one object of these.
func (f *faulty) place(kind, name string) string {
	switch kind {
	case "bucket":
		return f.bucket(name + "/")
	case "object":
		return f.bucket(name + "/sub/b")
	case "file":
		return filepath.Join(f.dir, name, "sub", "b")
	}
	return filepath.Join(f.dir, name)
}

// reset gives buckets and folders the contents that they have before a command.
func (f *faulty) reset(t *testing.T, contents map[string][]byte) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broke = nil
	clear(f.s3.objects)
	require.NoError(t, os.RemoveAll(filepath.Join(f.dir, "in")))
	require.NoError(t, os.RemoveAll(filepath.Join(f.dir, "out")))
	require.NoError(t, os.MkdirAll(filepath.Join(f.dir, "out", "sub"), 0o700))
	for name, content := range contents {
		sum := md5.Sum(content)
		f.s3.put("/in/"+name, s3Object{content, http.Header{"Etag": {`"` + hex.EncodeToString(sum[:]) + `"`}}, time.Now()})
		path := filepath.Join(f.dir, "in", filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, content, 0o600))
	}
}

// contentsOf returns all that is in a bucket or a folder.
func (f *faulty) contentsOf(t *testing.T, kind, name string) map[string][]byte {
	t.Helper()
	found := make(map[string][]byte)
	if kind == "bucket" || kind == "object" {
		f.mu.Lock()
		defer f.mu.Unlock()
		for path, object := range f.s3.objects {
			if key, ok := strings.CutPrefix(path, "/"+name+"/"); ok {
				found[key] = object.content
			}
		}
		return found
	}
	dir := filepath.Join(f.dir, name)
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		key, err := filepath.Rel(dir, path)
		if err == nil {
			found[filepath.ToSlash(key)], err = os.ReadFile(path)
		}
		return err
	}))
	return found
}

// runHere runs the command in this process.
func runHere(t *testing.T, arguments ...string) (code int, stdout []byte, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	files := make([]*os.File, 2)
	for i := range files {
		var err error
		files[i], err = os.CreateTemp(t.TempDir(), "")
		require.NoError(t, err)
		defer files[i].Close()
	}
	out, errs, log := os.Stdout, os.Stderr, slog.Default()
	defer func() {
		os.Stdout, os.Stderr = out, errs
		slog.SetDefault(log)
	}()
	os.Stdout, os.Stderr = files[0], files[1]
	code = run(ctx, arguments, new(telemetry.Session))
	stdout, err := os.ReadFile(files[0].Name())
	require.NoError(t, err)
	said, err := os.ReadFile(files[1].Name())
	require.NoError(t, err)
	return code, stdout, string(said)
}

// previousOut is what OUT holds before it is replaced.
var previousOut = []byte("the one before")

// task is a command line that is tried under faults.
type task struct {
	verb     string
	from, to string // kinds of places; to is empty if nothing is written
	inPlace  bool
	resumed  bool // with --resume
	replaces bool // OUT, which is there
	with     []string
}

func (w task) String() string {
	text := w.verb + " of a " + w.from
	if w.to != "" {
		text += " to a " + w.to
	}
	if w.inPlace {
		text += " in place"
	}
	if w.resumed {
		text += " with a journal"
	}
	if w.replaces {
		text += " that is there"
	}
	return strings.Join(append([]string{text}, w.with...), " ")
}

// isTriedAgain reports whether a failed read is tried again. Only inspect of one object does not do
// so.
func (w task) isTriedAgain() bool { return w.needsKey() || w.from == "bucket" }

// isMany reports whether the command works on an object as it does on several.
func (w task) isMany() bool {
	return w.from == "bucket" || w.from == "folder" || w.inPlace || w.to != "" && w.to != "file" || w.from == "object" && w.verb != "cat"
}

var worksUnderFaults = []task{
	{verb: "encrypt", from: "bucket", inPlace: true},
	{verb: "encrypt", from: "bucket", inPlace: true, resumed: true},
	{verb: "encrypt", from: "bucket", to: "bucket", resumed: true},
	{verb: "encrypt", from: "folder", to: "bucket"},
	{verb: "encrypt", from: "bucket", to: "folder"},
	{verb: "encrypt", from: "folder", inPlace: true, resumed: true},
	{verb: "encrypt", from: "file", to: "file"},
	{verb: "encrypt", from: "file", to: "object"},
	{verb: "encrypt", from: "object", inPlace: true},
	{verb: "decrypt", from: "bucket", inPlace: true},
	{verb: "decrypt", from: "bucket", to: "folder", resumed: true},
	{verb: "decrypt", from: "folder", to: "bucket", resumed: true},
	{verb: "decrypt", from: "object", to: "file"},
	{verb: "decrypt", from: "file", to: "file"},
	{verb: "rewrap", from: "bucket", inPlace: true, resumed: true},
	{verb: "rewrap", from: "bucket", to: "bucket", resumed: true},
	{verb: "rewrap", from: "object", to: "file"},
	{verb: "verify", from: "bucket", resumed: true},
	{verb: "verify", from: "object"},
	{verb: "inspect", from: "bucket"},
	{verb: "inspect", from: "object", with: []string{"--json"}},
	{verb: "ls", from: "bucket"},
	{verb: "cat", from: "object"},
	{verb: "cat", from: "object", with: []string{"--range", "70000-"}},
	{verb: "cat", from: "file"},
}

// needsKey reports whether the command takes keys.
func (w task) needsKey() bool { return w.verb != "ls" && w.verb != "inspect" }

// arguments returns the command line.
func (f *faulty) arguments(w task, report, journal string) []string {
	arguments := append([]string{w.verb}, w.with...)
	if w.needsKey() {
		arguments = append(arguments, "-k", f.old, "--kms-timeout", "50s") // on a busy machine an answer takes its time
	}
	if w.verb == "rewrap" {
		arguments = append(arguments, "--to", f.next)
	}
	if w.isMany() {
		arguments = append(arguments, "--jobs", "1")
		if w.needsKey() {
			arguments = append(arguments, "--report", report)
		}
	}
	if w.resumed {
		arguments = append(arguments, "--resume", journal)
	}
	if w.inPlace {
		arguments = append(arguments, "--in-place")
	}
	if w.replaces {
		arguments = append(arguments, "-f")
	}
	if w.to != "" {
		arguments = append(arguments, "-o", f.place(w.to, "out"))
	}
	return append(arguments, f.place(w.from, "in"))
}

// source returns what IN holds before the command.
func (f *faulty) source(w task) map[string][]byte {
	if w.verb == "encrypt" {
		return f.plain
	}
	return f.sealed
}

// isDone reports whether the content of an object is what the command makes of it, whole.
func (f *faulty) isDone(w task, name string, content []byte) bool {
	if w.verb == "decrypt" {
		return bytes.Equal(content, f.plain[name])
	}
	under := f.old
	if w.verb == "rewrap" {
		under = f.next
	}
	got, _, err := f.decrypters[under].Decrypt(context.Background(), content, nil)
	return err == nil && bytes.Equal(got, f.plain[name])
}

// names returns the objects that the command works on.
func (f *faulty) names(w task) []string {
	if w.from == "bucket" || w.from == "folder" {
		return slices.Sorted(maps.Keys(f.plain))
	}
	return []string{"sub/b"}
}

// check checks what a run left: each object is as it was or done, whole, and nothing else is there.
// It returns the objects that are done.
func (f *faulty) check(t *testing.T, w task, what string) (done map[string][]byte) {
	t.Helper()
	in := f.contentsOf(t, w.from, "in")
	if !w.inPlace {
		require.Equal(t, f.source(w), in, "%s: the source is changed", what)
	}
	found := in
	if w.to != "" {
		found = f.contentsOf(t, w.to, "out")
	} else if !w.inPlace {
		return nil
	}
	done = make(map[string][]byte)
	for name, content := range found {
		if f.isDone(w, name, content) {
			done[name] = content
			continue
		}
		old, known := f.source(w)[name]
		require.True(t, known, "%s: %s is left", what, name)
		require.True(t, w.inPlace && bytes.Equal(content, old) || w.replaces && bytes.Equal(content, previousOut), "%s: %s is there, and is not whole", what, name)
	}
	return done
}

// checkReport checks that what is reported as done is done.
func checkReport(t *testing.T, path string, done map[string][]byte, what string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return // it failed before
	}
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		var o work.Outcome
		require.NoError(t, json.Unmarshal([]byte(line), &o), what)
		if o.Result == work.ResultFailed {
			require.NotEmpty(t, o.Reason, what)
		} else if done != nil {
			isDone := slices.ContainsFunc(slices.Collect(maps.Keys(done)), func(name string) bool { return strings.HasSuffix(filepath.ToSlash(o.Name), name) })
			require.True(t, isDone, "%s: %s is reported as %s, and is not", what, o.Name, o.Result)
		}
	}
}

// again returns the command line that goes on after a failure.
func (w task) again(arguments []string) []string {
	last := len(arguments) - 1
	switch {
	case w.inPlace && w.verb == "decrypt" && !w.resumed:
		return slices.Insert(slices.Clone(arguments), last, "--plain", "skip")
	case w.to != "" && !w.resumed && !w.replaces:
		return slices.Insert(slices.Clone(arguments), last, "-f")
	}
	return arguments
}

// tryPolicy is how often a failed request is tried again.
type tryPolicy struct {
	name  string
	tries uint   // of an object
	sdk   string // a parameter of URLs of buckets; a retry of the AWS SDK takes more than 1
}

var (
	triedOnce  = tryPolicy{"tried once", 1, "&rate_limiter_capacity=1"}
	triedByUs  = tryPolicy{"five tries of an object", 5, "&rate_limiter_capacity=1"}
	triedByAll = tryPolicy{"five tries, and those of the AWS SDK", 5, ""}
)

// isCovered reports whether the command must succeed though a request is broken, and whether it
// may.
func (w task) isCovered(how tryPolicy, way, request string) (must, may bool) {
	verb, _, _ := strings.Cut(request, " ")
	ofKMS := strings.HasPrefix(request, "TrentService.")
	switch {
	case verb == "again":
		// The put before it was answered, and check has seen the object whole. If this one does not
		// come to be refused, s3storage goes on looking before each put of a new object.
		return true, true
	case way == denied && verb == "owners":
		return true, true // the object is asked for its list instead
	case way == denied:
		// DescribeKey may be denied. Of one object, the size is asked first, and need not be told.
		return false, request == "TrentService.DescribeKey" || w.from == "object" && strings.HasPrefix(request, "HEAD /in/")
	case ofKMS:
		return true, true // the AWS SDK tries four times
	case verb == "PUT" && (way == answerLost || way == answerCut):
		return true, true // the object is there, and is looked for
	case verb == "list" && how.tries > 1:
		return true, true // a listing goes on where it broke off
	case way == answerCut && (verb == "list" || !w.isTriedAgain()):
		return false, w.from == "object" // of what is read later, only the beginning may be asked for
	case how.sdk == "":
		return way != answerCut || w.isTriedAgain(), true
	case verb == "list" || how.tries == 1 || !w.isTriedAgain():
		return false, w.from == "object" && (strings.HasPrefix(request, "HEAD /in/") || way == answerCut)
	}
	return true, true
}

// causes has a pattern of the errors of each way.
var causes = map[string]string{
	notServed:  "connection reset by peer|forcibly closed|EOF",
	answerLost: "connection reset by peer|forcibly closed|EOF",
	answerCut:  "EOF|malformed",
	broken:     "500|KMSInternalException",
	denied:     "403|denied",
}

// deniedProperties is a pattern of the errors for properties of an object that may not be read.
const deniedProperties = `the permission s3:GetObject(Tagging|Acl) is missing`

// tryWith runs a command line once for each of its requests, and breaks that one.
func (f *faulty) tryWith(t *testing.T, w task, how tryPolicy, way string) (faults, seen int) {
	t.Helper()
	places.Tries, f.retries = how.tries, how.sdk
	f.breaksBy(way, "")
	dir := t.TempDir()
	faults = adversary.EachCall(func(c *adversary.Calls) {
		f.reset(t, f.source(w))
		report, journal := filepath.Join(dir, "report"), filepath.Join(dir, "journal")
		_ = os.Remove(report)
		arguments := f.arguments(w, report, journal)
		f.selectCalls(c)
		code, stdout, stderr := runHere(t, arguments...)
		f.selectCalls(&adversary.Calls{})
		what := fmt.Sprintf("%s, %s, %s %v: exit status %d: %s", w, how.name, way, f.broke, code, stderr)
		require.True(t, code == 0 || code == 1, what)
		done := f.check(t, w, what)
		checkReport(t, report, done, what)
		if w.verb == "cat" {
			f.checkCat(t, w, code, stdout, what)
		}
		if code == 0 {
			f.checkWhole(t, w, done, journal, what)
		}
		if len(f.broke) == 0 {
			require.Zero(t, code, what)
			return
		}
		must, may := w.isCovered(how, way, f.broke[0])
		if must {
			require.Zero(t, code, what)
		} else if !may {
			require.NotZero(t, code, what)
		}
		if code == 0 {
			return
		}
		seen++
		if w.verb == "inspect" {
			stderr += string(stdout) // each object's line says what is wrong with it
		}
		f.checkError(t, stderr, what)

		// The same command line goes on.
		code, stdout, stderr = runHere(t, w.again(arguments)...)
		what += fmt.Sprintf("and then: exit status %d: %s", code, stderr)
		require.Zero(t, code, what)
		after := f.check(t, w, what)
		f.checkWhole(t, w, after, journal, what)
		for name, content := range done {
			if w.resumed || w.inPlace {
				require.True(t, bytes.Equal(content, after[name]), "%s: %s is done twice", what, name)
			}
		}
		if w.verb == "cat" {
			f.checkCat(t, w, code, stdout, what)
		}
	})
	return faults, seen
}

// checkWhole checks what is left when a command has come to its end.
func (f *faulty) checkWhole(t *testing.T, w task, done map[string][]byte, journal, what string) {
	t.Helper()
	require.NoFileExists(t, journal, what)
	if w.to == "" && !w.inPlace {
		return
	}
	require.Equal(t, f.names(w), slices.Sorted(maps.Keys(done)), what)
}

// checkCat checks what cat wrote to standard output.
func (f *faulty) checkCat(t *testing.T, w task, code int, stdout []byte, what string) {
	t.Helper()
	whole := f.plain["sub/b"]
	if len(w.with) > 0 {
		whole = whole[70_000:]
	}
	if code == 0 {
		require.True(t, bytes.Equal(whole, stdout), what)
		return
	}
	require.True(t, bytes.HasPrefix(whole, stdout), what)
	if len(stdout) > 0 && len(stdout) < len(whole) {
		require.Contains(t, what, "the output so far is not the whole")
	}
}

// checkError checks that an error names what failed and why.
func (f *faulty) checkError(t *testing.T, stderr, what string) {
	t.Helper()
	name := "s3://in"
	request := f.broke[0]
	if _, path, _ := strings.Cut(request, " "); strings.HasPrefix(request, "TrentService.") {
		name = ":key/"
	} else if !strings.HasPrefix(request, "list ") {
		name = path[strings.Index(path[1:], "/")+2:]
	}
	require.Contains(t, stderr, name, what)
	cause := causes[f.way]
	if verb, _, _ := strings.Cut(request, " "); f.way == denied && (verb == "tags" || verb == "acl") {
		cause = deniedProperties
	}
	require.Regexp(t, cause, stderr, what)
}

// TestAFaultAtEachCallOfTheCommand breaks each request of a command to S3 and to KMS in its turn.
// What was there stays, or the whole new object is there, and the error names what failed and why.
// Tries of an object hide what passes. The same command line then comes to a right end.
func TestAFaultAtEachCallOfTheCommand(t *testing.T) {
	race.SkipShort(t)
	f := newFaulty(t)
	f.spare = !*allFaults
	defer func(n uint, wait time.Duration) { places.Tries, places.FirstWait = n, wait }(places.Tries, places.FirstWait)
	places.FirstWait = time.Millisecond
	before := goleak.IgnoreCurrent()
	faults, seen, begin := 0, 0, time.Now()
	hows := []tryPolicy{triedOnce, triedByUs}
	if *allFaults {
		hows = append(hows, triedByAll)
	}
	n, every := 0, 7
	if race.Enabled || testing.Short() {
		every = 29
	}
	if *allFaults {
		every = 1
	}
	for _, w := range worksUnderFaults {
		for _, way := range waysOfRequests {
			for _, how := range hows {
				if n++; n%every != 0 { // a prime, so that each way has its turn
					continue
				}
				more, moreSeen := f.tryWith(t, w, how, way)
				faults, seen = faults+more, seen+moreSeen
			}
		}
	}
	t.Logf("%d faults in %d command lines in %.0f s: %d errors that name them, %d covered; no object is lost or in part, and the same command line goes on",
		faults, len(worksUnderFaults), time.Since(begin).Seconds(), seen, faults-seen)
	// On a busy machine the connections of the last requests may take some time to go.
	leak := goleak.Find(before)
	for end := time.Now().Add(time.Minute); leak != nil && time.Now().Before(end); {
		leak = goleak.Find(before)
	}
	require.NoError(t, leak)
}

// TestALostAnswerToAPut loses the answer to a conditional put. The AWS SDK sends it a second time,
// and its condition is false by then. That must not count as a failure, nor as an object of another
// program.
func TestALostAnswerToAPut(t *testing.T) {
	f := newFaulty(t)
	f.breaksBy(answerLost, http.MethodPut)
	for _, w := range []task{
		{verb: "encrypt", from: "file", to: "object"},
		{verb: "decrypt", from: "object", inPlace: true},
		{verb: "rewrap", from: "object", inPlace: true},
	} {
		f.reset(t, f.source(w))
		f.selectCalls(&adversary.Calls{Fails: func(n int) bool { return n == 1 }})
		report := filepath.Join(t.TempDir(), "report")
		code, _, stderr := runHere(t, f.arguments(w, report, "")...)
		require.Len(t, f.broke, 1)
		what := fmt.Sprintf("%s: exit status %d: %s", w, code, stderr)
		require.Zero(t, code, what)
		require.Contains(t, stderr, "ed 1 object of ", what)
		require.NotContains(t, stderr, "skipped", what)
		f.checkWhole(t, w, f.check(t, w, what), "", what)
	}
}
