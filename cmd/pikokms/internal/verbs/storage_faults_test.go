package verbs

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider/local"
)

// unwell is an S3. If sick returns a handler for a request, that answers in its place.
type unwell struct {
	s3   *s3Server
	url  string
	mu   sync.Mutex
	sick func(*http.Request) http.HandlerFunc // is called under mu, and returns nil for an honest answer
	n    int                                  // requests
}

// cutAnswer sends half of what the server answers.
func (u *unwell) cutAnswer(w http.ResponseWriter, r *http.Request) {
	recorder := httptest.NewRecorder()
	u.s3.ServeHTTP(recorder, r)
	body := recorder.Body.Bytes()
	for name, values := range recorder.Header() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(recorder.Code)
	_, _ = w.Write(body[:len(body)/2])
	panic(http.ErrAbortHandler)
}

func newUnwell(t *testing.T) *unwell {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CA_BUNDLE", "")
	t.Setenv(keys.Variable, "")
	u := &unwell{s3: &s3Server{objects: make(map[string]s3Object)}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.n++
		var lie http.HandlerFunc
		if u.sick != nil {
			lie = u.sick(r)
		}
		u.mu.Unlock()
		if lie != nil {
			lie(w, r)
			return
		}
		u.s3.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	u.url = server.URL
	return u
}

// setSick sets which requests are answered wrongly from now on.
func (u *unwell) setSick(sick func(*http.Request) http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sick, u.n = sick, 0
}

func (u *unwell) requests() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.n
}

// firstOfEach answers the first request of each kind and object with lie.
func firstOfEach(lie http.HandlerFunc) func(*http.Request) http.HandlerFunc {
	seen := make(map[string]bool)
	return func(r *http.Request) http.HandlerFunc {
		what := r.Method + r.URL.Path + r.URL.Query().Get("list-type")
		if seen[what] {
			return nil
		}
		seen[what] = true
		return lie
	}
}

// always answers each request with lie.
func always(lie http.HandlerFunc) func(*http.Request) http.HandlerFunc {
	return func(*http.Request) http.HandlerFunc { return lie }
}

func (u *unwell) put(bucket, key string, content []byte) {
	u.s3.put("/"+bucket+"/"+key, s3Object{content, http.Header{"Etag": {fmt.Sprintf(`"%x"`, len(content))}}, time.Now()})
}

func (u *unwell) place(path string) string {
	return "s3://" + path + "?region=us-east-1&use_path_style=true&endpoint=" + u.url
}

// newDevKey makes a key file and returns its KEY, and an object under it.
func newDevKey(t *testing.T, content []byte) (key string, sealed []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dev.key")
	require.NoError(t, local.Generate(file))
	p, err := local.NewProvider(local.Config{KeyFile: file})
	require.NoError(t, err)
	sealed, err = (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), content, nil)
	require.NoError(t, err)
	return "local:" + file, sealed
}

// tryQuickly sets the number of tries, with hardly any time between them.
func tryQuickly(t *testing.T, n uint) {
	t.Helper()
	before, wait := places.Tries, places.FirstWait
	places.Tries, places.FirstWait = n, time.Millisecond
	t.Cleanup(func() { places.Tries, places.FirstWait = before, wait })
}

// TestDamagedObjectsNeverEndTheWork works on more damaged objects in a row than there may be
// failures. All are named, each is read once, and the whole ones are worked on.
func TestDamagedObjectsNeverEndTheWork(t *testing.T) {
	race.SkipShort(t)
	key, sealed := newDevKey(t, bytes.Repeat([]byte("0123456789"), 20_000))
	u := newUnwell(t)
	dir := t.TempDir()
	cuts := []int{len(sealed) - 1, 100, 65_000, len(sealed) / 2}
	const damaged, whole = 40, 5
	fill := func() {
		for i := range damaged + whole {
			content, name := sealed, fmt.Sprintf("z%02d", i)
			if i < damaged {
				content, name = sealed[:cuts[i%len(cuts)]], fmt.Sprintf("a%02d", i)
			}
			u.put("in", name, content)
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		}
	}
	next, _ := newDevKey(t, nil)
	for _, where := range []string{dir, u.place("in/")} {
		for verb, arguments := range map[string][]string{
			"verify":  {"verify", "-k", key},
			"decrypt": {"decrypt", "-k", key, "-o", filepath.Join(t.TempDir(), "out") + "/"},
			"rewrap":  {"rewrap", "-k", key, "--to", next + "?name=next", "--in-place"},
		} {
			fill()
			u.setSick(nil)
			code, _, stderr := runHere(t, append(arguments, "--jobs", "3", where)...)
			require.Equal(t, 1, code, stderr)
			require.Contains(t, stderr, fmt.Sprintf("%d failed", damaged), "%s of %s: %s", verb, where, stderr)
			require.Contains(t, stderr, fmt.Sprintf("%d objects of", whole), "%s of %s: %s", verb, where, stderr)
			require.NotContains(t, stderr, "stopped", stderr)
			for i := range damaged {
				require.Contains(t, stderr, fmt.Sprintf("a%02d", i))
			}
			require.Less(t, u.requests(), 6*(damaged+whole), "none is tried again")
		}
	}
}

// TestAStorageThatLiesForAWhile fails each request of a command once in each way. The command
// tries again, and comes to the right end.
func TestAStorageThatLiesForAWhile(t *testing.T) {
	race.SkipShort(t)
	tryQuickly(t, 10) // on a busy machine, an answer may take longer than the limit
	content := bytes.Repeat([]byte("0123456789"), 50_000)
	key, sealed := newDevKey(t, content)
	u := newUnwell(t)
	for _, name := range []string{"a", "b", "sub/c"} {
		u.put("in", name, sealed)
	}
	lies := map[string]http.HandlerFunc{"a cut answer": u.cutAnswer}
	for _, name := range []string{"a header that is cut", "a page of a gateway", "silence", "a reset"} {
		lies[name] = adversary.Lies[name]
	}
	for name, lie := range lies {
		for verb, c := range map[string]struct {
			arguments []string
			wants     func(t *testing.T, stdout []byte)
		}{
			"ls":          {[]string{"ls", u.place("in/")}, func(t *testing.T, out []byte) { require.Equal(t, 3, bytes.Count(out, []byte("encrypted"))) }},
			"inspect":     {[]string{"inspect", u.place("in/")}, func(t *testing.T, out []byte) { require.Equal(t, 3, bytes.Count(out, []byte("0x0478"))) }},
			"verify":      {[]string{"verify", "-k", key, u.place("in/")}, nil},
			"decrypt":     {[]string{"decrypt", "-f", "-k", key, "-o", t.TempDir() + "/", u.place("in/")}, nil},
			"cat":         {[]string{"cat", "-k", key, u.place("in/a")}, func(t *testing.T, out []byte) { require.True(t, bytes.Equal(content, out)) }},
			"cat --range": {[]string{"cat", "-k", key, "--range", "100000-300000", u.place("in/a")}, func(t *testing.T, out []byte) { require.True(t, bytes.Equal(content[100_000:300_001], out)) }},
		} {
			t.Run(name+", "+verb, func(t *testing.T) {
				u.setSick(firstOfEach(lie))
				code, stdout, stderr := runHere(t, append([]string{c.arguments[0], "--storage-timeout", "300ms"}, c.arguments[1:]...)...)
				require.Zero(t, code, stderr)
				if c.wants != nil {
					c.wants(t, stdout)
				}
			})
		}
	}
}

// TestListingUnderCuts lists many objects while one of fifty answers is cut.
func TestListingUnderCuts(t *testing.T) {
	race.SkipShort(t)
	tryQuickly(t, 5)
	_, sealed := newDevKey(t, make([]byte, 100))
	u := newUnwell(t)
	for i := range 500 {
		u.put("in", fmt.Sprintf("%04d", i), sealed)
	}
	n := 0
	u.setSick(func(*http.Request) http.HandlerFunc {
		if n++; n%50 == 1 {
			return u.cutAnswer
		}
		return nil
	})
	code, stdout, stderr := runHere(t, "ls", u.place("in/"))
	require.Zero(t, code, stderr)
	require.Equal(t, 500, bytes.Count(stdout, []byte("encrypted")))
}

// stall answers nothing until the client is gone. The server does not notice that while a request's
// body is not read, so there is a limit.
func stall(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-time.After(5 * time.Second):
	}
}

// TestAStorageThatStaysSilent checks that each command returns, and that its error names the
// storage that does not answer.
func TestAStorageThatStaysSilent(t *testing.T) {
	tryQuickly(t, 2)
	content := bytes.Repeat([]byte("0123456789"), 50_000)
	key, sealed := newDevKey(t, content)
	u := newUnwell(t)
	u.put("in", "a", sealed)
	u.put("in", "b", sealed)
	plain := filepath.Join(t.TempDir(), "plain")
	require.NoError(t, os.WriteFile(plain, content, 0o600))
	half := func(w http.ResponseWriter, r *http.Request) { // then nothing more comes
		recorder := httptest.NewRecorder()
		u.s3.ServeHTTP(recorder, r)
		for name, values := range recorder.Header() {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(recorder.Body.Len()))
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes()[:recorder.Body.Len()/2])
		_ = http.NewResponseController(w).Flush()
		stall(r)
	}
	deaf := func(_ http.ResponseWriter, r *http.Request) { // takes a part of what is sent
		_, _ = io.ReadFull(r.Body, make([]byte, 1000))
		stall(r)
	}
	objects := func(lie http.HandlerFunc) func(*http.Request) http.HandlerFunc { // and not of listings
		return func(r *http.Request) http.HandlerFunc {
			if r.Method == http.MethodGet && r.URL.Query().Get("list-type") == "" {
				return lie
			}
			return nil
		}
	}
	puts := func(r *http.Request) http.HandlerFunc {
		if r.Method == http.MethodPut {
			return deaf
		}
		return nil
	}
	before := goleak.IgnoreCurrent()
	for name, sick := range map[string]func(*http.Request) http.HandlerFunc{
		"all": always(adversary.Lies["silence"]), "objects": objects(adversary.Lies["silence"]), "half of objects": objects(half), "uploads": puts,
	} {
		for verb, arguments := range map[string][]string{
			"ls":      {"ls", u.place("in/")},
			"inspect": {"inspect", u.place("in/")},
			"cat":     {"cat", "-k", key, u.place("in/a")},
			"range":   {"cat", "-k", key, "--range", "100000-", u.place("in/a")},
			"verify":  {"verify", "-k", key, u.place("in/")},
			"decrypt": {"decrypt", "-k", key, "-o", t.TempDir() + "/", u.place("in/")},
			"encrypt": {"encrypt", "-f", "-k", key, "-o", u.place("out/b"), plain},
			"rewrap":  {"rewrap", "-k", key, "--to", key + "?name=next", "--in-place", u.place("in/")},
		} {
			if name == "uploads" && verb != "encrypt" && verb != "rewrap" || strings.Contains(name, "objects") && verb == "encrypt" {
				continue
			}
			if name == "half of objects" && (verb == "ls" || verb == "inspect") {
				continue // half is enough for a header
			}
			t.Run(name+", "+verb, func(t *testing.T) {
				u.setSick(sick)
				begin := time.Now()
				code, stdout, stderr := runHere(t, append([]string{arguments[0], "--storage-timeout", "200ms"}, arguments[1:]...)...)
				u.setSick(nil)
				require.Equal(t, 1, code, stderr)
				said := string(stdout) + stderr
				require.Contains(t, said, strings.TrimPrefix(u.url, "http://")+" moved no byte for 200ms")
				require.Less(t, time.Since(begin), 30*time.Second)
			})
		}
	}
	u.setSick(nil)
	for end := time.Now().Add(20 * time.Second); goleak.Find(before) != nil && time.Now().Before(end); {
		http.DefaultClient.CloseIdleConnections()
	}
}

// TestAViewOfAStorageThatStaysSilent checks that serve answers requests for a page and an object
// with an error.
func TestAViewOfAStorageThatStaysSilent(t *testing.T) {
	key, sealed := newDevKey(t, []byte("hello"))
	u := newUnwell(t)
	u.put("in", "a", sealed)
	s := serve(t, "-k", key, "--storage-timeout", "300ms", u.place("in/"))
	u.setSick(always(adversary.Lies["silence"]))
	for _, path := range []string{"", "a"} {
		answer, err := http.Get(s.url + path)
		require.NoError(t, err)
		_ = answer.Body.Close()
		require.GreaterOrEqual(t, answer.StatusCode, http.StatusInternalServerError)
	}
	u.setSick(nil)
	answer, err := http.Get(s.url + "a")
	require.NoError(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, "hello", string(text))
}

// refuse answers as S3 does.
func refuse(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, code)
		}
	}
}

// TestWhatIsDeniedForAllEndsTheWork works with a storage or a key service that denies everything.
// The command stops after a few requests, and its error says what to check. Single objects that are
// denied don't stop it.
func TestWhatIsDeniedForAllEndsTheWork(t *testing.T) {
	tryQuickly(t, 5)
	key, sealed := newDevKey(t, []byte("hello"))
	u := newUnwell(t)
	const objects = 300
	for i := range objects {
		u.put("in", fmt.Sprintf("%03d", i), sealed)
	}
	isObject := func(r *http.Request) bool { return r.URL.Query().Get("list-type") == "" }
	for name, lie := range map[string]http.HandlerFunc{
		"AccessDenied": refuse(http.StatusForbidden, "AccessDenied"), "ExpiredToken": refuse(http.StatusBadRequest, "ExpiredToken"),
	} {
		for _, verb := range []string{"verify", "ls", "inspect", "decrypt"} {
			u.setSick(func(r *http.Request) http.HandlerFunc {
				if isObject(r) {
					return lie
				}
				return nil
			})
			arguments := []string{verb, "--jobs", "2", u.place("in/")}
			switch verb {
			case "verify":
				arguments = append(arguments, "-k", key)
			case "decrypt":
				arguments = append(arguments, "-k", key, "-o", t.TempDir()+"/")
			}
			code, _, stderr := runHere(t, arguments...)
			require.Equal(t, 1, code, stderr)
			require.Contains(t, stderr, "in a row that were denied: check the credentials and the permissions", "%s %s", name, verb)
			require.Less(t, u.requests(), 40, "%s %s", name, verb)
		}
	}

	// Credentials expire when some objects are done.
	done := 0
	u.setSick(func(r *http.Request) http.HandlerFunc {
		if done++; isObject(r) && done > 60 {
			return refuse(http.StatusBadRequest, "ExpiredToken")
		}
		return nil
	})
	code, _, stderr := runHere(t, "verify", "--jobs", "2", "-k", key, u.place("in/"))
	require.Equal(t, 1, code, stderr)
	require.Contains(t, stderr, "stopped after 5 objects in a row that were denied")
	require.Less(t, u.requests(), 120)

	// One of three objects is denied.
	u.setSick(func(r *http.Request) http.HandlerFunc {
		if isObject(r) && strings.HasSuffix(r.URL.Path, "1") || strings.HasSuffix(r.URL.Path, "2") || strings.HasSuffix(r.URL.Path, "3") {
			return refuse(http.StatusForbidden, "AccessDenied")
		}
		return nil
	})
	code, _, stderr = runHere(t, "verify", "--jobs", "2", "-k", key, u.place("in/"))
	require.Equal(t, 1, code, stderr)
	require.Contains(t, stderr, "verified 210 objects of")
	require.Contains(t, stderr, "90 failed")

	server := kmstest.NewServer(t)
	arn := server.CreateKey(kmstest.Key{}).ARN
	server.Inject(kmstest.Fault{Operation: "GenerateDataKey", Do: kmstest.Deny()})
	dir := t.TempDir()
	for i := range objects {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d", i)), []byte("plain"), 0o600))
	}
	server.Reset()
	code, _, stderr = runHere(t, "encrypt", "--jobs", "2", "--in-place", "-k", "awskms:///"+arn+"?endpoint="+server.URL, dir)
	require.Equal(t, 1, code, stderr)
	require.Contains(t, stderr, "denied: check the credentials")
	require.Less(t, server.Calls("GenerateDataKey"), 20)
}

// TestCatGoesOnWhereADownloadBrokeOff ends each answer after some bytes. Content that is replaced
// meanwhile is not mixed with the earlier one.
func TestCatGoesOnWhereADownloadBrokeOff(t *testing.T) {
	tryQuickly(t, 5)
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	key, sealed := newDevKey(t, content)
	_, other := newDevKey(t, content)
	u := newUnwell(t)
	u.put("in", "a", sealed)
	var ranges atomic.Int64
	answer := func(r *http.Request) http.HandlerFunc {
		if r.Method != http.MethodGet {
			return nil
		}
		if n := ranges.Add(1); n > 1 && r.Header.Get("If-Match") == "" {
			t.Errorf("request %d is not for the version that was read", n)
		}
		return func(w http.ResponseWriter, r *http.Request) {
			recorder := httptest.NewRecorder()
			u.s3.ServeHTTP(recorder, r)
			for name, values := range recorder.Header() {
				w.Header()[name] = values
			}
			body := recorder.Body.Bytes()
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			w.WriteHeader(recorder.Code)
			_, _ = w.Write(body[:min(len(body), 300_000)])
			if len(body) > 300_000 {
				panic(http.ErrAbortHandler)
			}
		}
	}
	u.setSick(answer)
	code, stdout, stderr := runHere(t, "cat", "-k", key, u.place("in/a"))
	require.Zero(t, code, stderr)
	require.True(t, bytes.Equal(content, stdout))
	require.Greater(t, ranges.Load(), int64(5))

	n := 0 // sick is called for one request at a time
	ranges.Store(0)
	u.setSick(func(r *http.Request) http.HandlerFunc {
		if n++; n == 4 {
			u.put("in", "a", append(other, 0))
		}
		return answer(r)
	})
	code, stdout, stderr = runHere(t, "cat", "-k", key, u.place("in/a"))
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "changed meanwhile")
	require.True(t, bytes.HasPrefix(content, stdout))
}

// TestAStorageTimeoutIsNotNegative checks that a negative limit is wrong usage.
func TestAStorageTimeoutIsNotNegative(t *testing.T) {
	code, _, stderr := runHere(t, "ls", "--storage-timeout", "-1s", t.TempDir())
	require.Equal(t, 2, code, stderr)
	require.Contains(t, stderr, "--storage-timeout is -1s")
}

// TestCloudsThatStaySilent checks that requests to Google's and Azure's storage are given up as
// those to S3 are.
func TestCloudsThatStaySilent(t *testing.T) {
	tryQuickly(t, 2)
	key, _ := newDevKey(t, nil)
	u := newUnwell(t)
	u.setSick(always(adversary.Lies["silence"]))
	host := strings.TrimPrefix(u.url, "http://")
	t.Setenv("STORAGE_EMULATOR_HOST", host)
	t.Setenv("AZURE_STORAGE_ACCOUNT", "devstoreaccount1")
	t.Setenv("AZURE_STORAGE_KEY", "c2VjcmV0")
	t.Setenv("AZURE_STORAGE_SAS_TOKEN", "")
	t.Setenv("AZURE_STORAGE_CONNECTION_STRING", "")
	plain := filepath.Join(t.TempDir(), "plain")
	require.NoError(t, os.WriteFile(plain, []byte("hello"), 0o600))
	for _, where := range []string{"gs://bucket/", "azblob://bucket/?protocol=http&localemu=true&domain=" + host} {
		path, query, _ := strings.Cut(where, "?")
		if query != "" {
			query = "?" + query
		}
		for _, arguments := range [][]string{
			{"ls", path + query}, {"cat", "-k", key, path + "a" + query}, {"verify", "-k", key, path + "a" + query}, {"encrypt", "-k", key, "-o", path + "a" + query, plain},
		} {
			t.Run(arguments[0]+" "+path, func(t *testing.T) {
				begin := time.Now()
				code, _, stderr := runHere(t, append([]string{arguments[0], "--storage-timeout", "200ms"}, arguments[1:]...)...)
				require.Equal(t, 1, code, stderr)
				require.Contains(t, stderr, host+" moved no byte for 200ms")
				require.Less(t, time.Since(begin), 20*time.Second)
			})
		}
	}
}
