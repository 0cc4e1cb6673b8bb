package verbs

import (
	"bufio"
	"bytes"
	crand "crypto/rand"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/web"
	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
)

// served is a command that serves.
type served struct {
	t       *testing.T
	url     string
	command *exec.Cmd
	ended   chan error

	mu   sync.Mutex
	said strings.Builder
}

func serve(t *testing.T, arguments ...string) *served {
	t.Helper()
	command := exec.Command("pikokms", append([]string{"serve", "--address", "127.0.0.1:0"}, arguments...)...)
	command.Env = append(os.Environ(), "GORACE="+noRaceSleep, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true")
	return startServing(t, command)
}

func startServing(t *testing.T, command *exec.Cmd) *served {
	t.Helper()
	s := &served{t: t, command: command, ended: make(chan error, 1)}
	stderr, err := s.command.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, s.command.Start())
	urls, done := make(chan string, 1), make(chan struct{})
	t.Cleanup(func() {
		_ = s.command.Process.Kill()
		<-done
	})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			s.mu.Lock()
			s.said.WriteString(lines.Text() + "\n")
			s.mu.Unlock()
			if found := regexp.MustCompile(`http://\S+`).FindString(lines.Text()); found != "" && len(urls) == 0 {
				urls <- found
			}
		}
		close(urls)
		s.ended <- s.command.Wait()
	}()
	var ok bool
	if s.url, ok = <-urls; !ok {
		t.Fatalf("it does not serve: %s", s.stderr())
	}
	return s
}

// stderr returns what the command has written to standard error so far.
func (s *served) stderr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.String()
}

// ask makes a request, and returns the answer with its whole body.
func (s *served) ask(method, path string, headers ...string) (*http.Response, string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, strings.TrimSuffix(s.url, "/")+path, nil)
	require.NoError(s.t, err)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if request.Header.Set(name, value); name == "Host" {
			request.Host = value
		}
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	require.NoError(s.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	require.Equal(s.t, "nosniff", response.Header.Get("X-Content-Type-Options"))
	require.Contains(s.t, response.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'")
	if response.StatusCode != http.StatusRequestedRangeNotSatisfiable { // net/http's own answer
		require.Equal(s.t, "no-store", response.Header.Get("Cache-Control"))
	}
	return response, string(body)
}

// crawl follows all links from the first page on, as a browser does. It returns the contents of
// objects by the keys that their URLs have.
func (s *served) crawl() map[string]string {
	s.t.Helper()
	links := regexp.MustCompile(`(?:href|src)="([^"]*)"`)
	contents, seen := make(map[string]string), make(map[string]bool)
	waiting := []string{s.url}
	for len(waiting) > 0 {
		at, err := url.Parse(waiting[0])
		require.NoError(s.t, err)
		if waiting = waiting[1:]; seen[at.String()] {
			continue
		}
		seen[at.String()] = true
		response, body := s.ask(http.MethodGet, at.RequestURI())
		require.Equal(s.t, http.StatusOK, response.StatusCode, at)
		if at.RawQuery != "view" && !strings.HasSuffix(at.Path, "/") {
			contents[strings.TrimPrefix(at.Path, "/")] = body
			continue
		}
		for _, found := range links.FindAllStringSubmatch(body, -1) {
			link, err := at.Parse(html.UnescapeString(found[1]))
			require.NoError(s.t, err)
			if link.Scheme == "http" {
				require.Equal(s.t, at.Host, link.Host)
				waiting = append(waiting, link.String())
			}
		}
	}
	return contents
}

// fill makes files in a new folder, and encrypts them to another.
func fill(t *testing.T, files map[string]string, flags ...string) (encrypted string) {
	t.Helper()
	plain := t.TempDir()
	encrypted = filepath.Join(t.TempDir(), "photos")
	for name, content := range files {
		path := filepath.Join(plain, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	_, stderr, _, err := execute(t, append(append([]string{"encrypt", "-o", encrypted}, flags...), plain)...)
	require.NoError(t, err, stderr)
	return encrypted
}

func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return string(b)
}

func TestServe(t *testing.T) {
	kms := kmstest.NewServer(t)
	key := kms.CreateKey(kmstest.Key{})
	kek := "awskms:///" + key.ARN + "?endpoint=" + kms.URL
	video := noise(1_500_000)
	files := map[string]string{
		"video.mp4": video, "empty.bin": "", "deep/er/notes.txt": "hello\n", "page.html": "<script>1</script>",
		"a b;c+d=e&f,%41 #1.txt": "odd", "ünï/日本.txt": "unicode", ".hidden/-x": "hidden", "x/..y/z": "dots",
	}
	if runtime.GOOS != "windows" {
		files[`why? "q" <b> \ `+"\u202e"+`gpj.jpg`] = "odder"
		files["http:/evil/colon:.txt"] = "colon"
	}
	dir := fill(t, files, "-k", kek)
	s := serve(t, "-k", kek, dir)

	t.Run("every link leads to its object", func(t *testing.T) {
		require.Equal(t, files, s.crawl())
		_, page := s.ask(http.MethodGet, "/")
		require.NotContains(t, page, "<b>")
		require.NotContains(t, page, "\u202e")
		require.Contains(t, page, `title="1500000 bytes">1.4 MiB<`)
		require.Equal(t, len(files), kms.Calls("Decrypt"), "one call an object")
	})
	t.Run("ranges", func(t *testing.T) {
		kms.Reset()
		head, _ := s.ask(http.MethodHead, "/video.mp4")
		require.Equal(t, []string{"video/mp4", "1500000", "bytes"},
			[]string{head.Header.Get("Content-Type"), head.Header.Get("Content-Length"), head.Header.Get("Accept-Ranges")})
		tag, modified := head.Header.Get("ETag"), head.Header.Get("Last-Modified")
		for _, test := range []struct {
			headers []string
			status  int
			body    string
		}{
			{nil, 200, video},
			{[]string{"Range: bytes=0-99"}, 206, video[:100]},
			{[]string{"Range: bytes=65530-131080"}, 206, video[65530:131081]},
			{[]string{"Range: bytes=-500"}, 206, video[len(video)-500:]},
			{[]string{"Range: bytes=1400000-"}, 206, video[1_400_000:]},
			{[]string{"Range: bytes=0-9", "If-Range: " + tag}, 206, video[:10]},
			{[]string{"Range: bytes=0-9", "If-Range: " + modified}, 206, video[:10]},
			{[]string{"Range: bytes=0-9", `If-Range: "other"`}, 200, video},
			{[]string{"If-None-Match: " + tag}, 304, ""},
			{[]string{"If-Modified-Since: " + modified}, 304, ""},
		} {
			response, body := s.ask(http.MethodGet, "/video.mp4", test.headers...)
			require.Equal(t, test.status, response.StatusCode, test.headers)
			require.True(t, test.body == body, test.headers)
		}
		response, _ := s.ask(http.MethodGet, "/video.mp4", "Range: bytes=1500000-")
		require.Equal(t, 416, response.StatusCode)
		var clients sync.WaitGroup
		for i := range 8 {
			clients.Go(func() {
				for range 5 {
					at := i * 150_000
					response, err := http.DefaultClient.Do(&http.Request{
						URL: mustParse(s.url + "video.mp4"), Header: http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", at, at+99_999)}},
					})
					if err != nil {
						t.Error(err)
						return
					}
					body, err := io.ReadAll(response.Body)
					_ = response.Body.Close()
					if err != nil || string(body) != video[at:at+100_000] {
						t.Errorf("at %d: %d bytes, %v", at, len(body), err)
					}
				}
			})
		}
		clients.Wait()
		require.Zero(t, kms.Calls("Decrypt"), "the data key is kept")
	})
	t.Run("what is refused", func(t *testing.T) {
		for _, test := range []struct {
			method, path, header string
			status               int
		}{
			{"POST", "/video.mp4", "", 405}, {"DELETE", "/", "", 405}, {"OPTIONS", "/", "", 405},
			{"GET", "/none", "", 404}, {"GET", "/none/", "", 404}, {"GET", "/video.mp4/x", "", 404}, {"GET", "/deep/er/notes.txt?view", "", 404},
			{"GET", "/", "Host: evil.example", 421}, {"GET", "/video.mp4", "Host: evil.example:80", 421}, {"GET", "/", "Host: 192.0.2.1", 421},
			{"GET", "/", "Host: localhost:9", 200}, {"GET", "/", "Host: [::1]", 200},
		} {
			var headers []string
			if test.header != "" {
				headers = []string{test.header}
			}
			response, body := s.ask(test.method, test.path, headers...)
			require.Equal(t, test.status, response.StatusCode, test)
			if test.status != 200 {
				require.Less(t, len(body), 80, body)
			}
		}
		for _, path := range []string{"/../../../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/x/%2e%2e%2f%2e%2e%2fetc/"} {
			require.Equal(t, "404", statusOf(t, s.url, path), path)
		}
		response, _ := s.ask(http.MethodGet, "/deep")
		require.Equal(t, []string{"302", "./deep/"}, []string{fmt.Sprint(response.StatusCode), response.Header.Get("Location")})
		response, _ = s.ask(http.MethodGet, "/page.html")
		require.Contains(t, response.Header.Get("Content-Security-Policy"), "sandbox")
	})
	t.Run("what cannot be read tells nothing", func(t *testing.T) {
		damage := func(name string, at int) {
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			b[(at+len(b))%len(b)] ^= 1
			require.NoError(t, os.WriteFile(path, b, 0o600))
		}
		damage("video.mp4", 1_000_000)
		response, err := http.Get(s.url + "video.mp4")
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.True(t, strings.HasPrefix(video, string(body)))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "plain.txt"), []byte("plain"), 0o600))
		damage("page.html", -1)
		for path, status := range map[string]int{"/plain.txt": 403, "/page.html": 500} {
			response, body := s.ask(http.MethodGet, path)
			require.Equal(t, status, response.StatusCode)
			for _, secret := range []string{key.ID, "kms", "Error", dir} {
				require.NotContains(t, body, secret)
			}
		}
		for _, name := range []string{"video.mp4: ", "page.html: ", "plain.txt: it is not encrypted"} {
			require.Eventually(t, func() bool { return strings.Contains(s.stderr(), "photos/"+name) }, time.Minute, 10*time.Millisecond, name)
		}
		_, page := s.ask(http.MethodGet, "/")
		require.Contains(t, page, "<td>plain.<wbr>txt <small>not encrypted</small></td>")
	})
	t.Run("the key service is down", func(t *testing.T) {
		dir := fill(t, map[string]string{"a": "a", "b": "b"}, "-k", kek)
		s := serve(t, "-k", kek, dir)
		_, body := s.ask(http.MethodGet, "/a")
		require.Equal(t, "a", body)
		kms.Inject(kmstest.Fault{Operation: "Decrypt", Do: kmstest.Error("KMSInternalException", "down")})
		response, _ := s.ask(http.MethodGet, "/b")
		require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
		require.NotEmpty(t, response.Header.Get("Retry-After"))
		_, body = s.ask(http.MethodGet, "/a")
		require.Equal(t, "a", body)
	})
}

func mustParse(text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	return u
}

// statusOf asks for a path as it is. A client of net/http would clean it.
func statusOf(t *testing.T, base, path string) string {
	t.Helper()
	u := mustParse(base)
	connection, err := net.Dial("tcp", u.Host)
	require.NoError(t, err)
	defer connection.Close()
	_, err = fmt.Fprintf(connection, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, u.Host)
	require.NoError(t, err)
	answer, err := io.ReadAll(connection)
	require.NoError(t, err)
	return strings.Fields(string(answer))[1]
}

// TestServeWithoutRanges serves objects that can only be read from their beginning, one object
// alone, and names with a suffix.
func TestServeWithoutRanges(t *testing.T) {
	dir := t.TempDir()
	key := "local:" + filepath.ToSlash(filepath.Join(dir, "dev.key"))
	_, stderr, _, err := execute(t, "keygen", "-o", filepath.Join(dir, "dev.key"))
	require.NoError(t, err, stderr)
	content := strings.Repeat("all work and no play\n", 20_000)
	for _, flags := range [][]string{{"--compress", "zstd"}, {"--sign"}, {"--compress", "zstd-seekable"}} {
		folder := fill(t, map[string]string{"notes.txt": content}, append(flags, "-k", key, "--suffix", ".enc", "-c", "tenant=42")...)
		s := serve(t, "-k", key, "-c", "tenant=42", "--suffix", ".enc", folder)
		require.Equal(t, map[string]string{"notes.txt": content}, s.crawl())
		response, body := s.ask(http.MethodGet, "/notes.txt", "Range: bytes=0-9")
		require.Equal(t, "text/plain; charset=utf-8", response.Header.Get("Content-Type"))
		if flags[len(flags)-1] == "zstd-seekable" {
			require.Equal(t, content[:10], body)
		} else {
			require.Equal(t, content, body)
			require.Equal(t, "none", response.Header.Get("Accept-Ranges"))
		}
		one := serve(t, "-k", key, filepath.Join(folder, "notes.txt.enc"), "--suffix", ".enc")
		require.Equal(t, map[string]string{"notes.txt": content}, one.crawl())
		other := serve(t, "-k", key, "-c", "tenant=43", "--suffix", ".enc", folder)
		response, _ = other.ask(http.MethodGet, "/notes.txt")
		require.Equal(t, http.StatusForbidden, response.StatusCode)
	}
}

func TestServeBucket(t *testing.T) {
	files := map[string]string{"video.mp4": noise(300_000), "deep/er/notes.txt": "hello\n", "a b?c#d%.txt": "odd"}
	for i := range web.PageSize + 20 {
		files[fmt.Sprintf("many/%03d", i)] = fmt.Sprint(i)
	}
	for name, place := range map[string]func(*testing.T) string{
		"folder": func(t *testing.T) string {
			return "file://" + filepath.ToSlash(t.TempDir()) + "?metadata=skip"
		},
		"LocalStack": func(t *testing.T) string {
			endpoint := emulator.LocalStack(t)
			bucket := strings.ToLower(crand.Text())
			request, err := http.NewRequest(http.MethodPut, endpoint+"/"+bucket, strings.NewReader(
				`<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>`))
			require.NoError(t, err)
			response, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, http.StatusOK, response.StatusCode)
			return "s3://" + bucket + "/backups/?region=eu-west-1&use_path_style=true&endpoint=" + endpoint
		},
	} {
		t.Run(name, func(t *testing.T) {
			place := place(t)
			key := "local:" + filepath.ToSlash(filepath.Join(t.TempDir(), "dev.key"))
			_, stderr, _, err := execute(t, "keygen", "-o", strings.TrimPrefix(key, "local:"))
			require.NoError(t, err, stderr)
			_, stderr, _, err = execute(t, "rewrap", "-k", key, "--to", key, "-o", place, fill(t, files, "-k", key))
			require.NoError(t, err, stderr)
			s := serve(t, "-k", key, place)
			require.Equal(t, files, s.crawl())
			response, body := s.ask(http.MethodGet, "/video.mp4", "Range: bytes=100000-200000")
			require.Equal(t, http.StatusPartialContent, response.StatusCode)
			require.True(t, files["video.mp4"][100_000:200_001] == body)
			for _, missing := range []string{"/none", "/many/", "/none/"} {
				response, _ = s.ask(http.MethodGet, missing)
				require.Equal(t, map[bool]int{true: 200, false: 404}[missing == "/many/"], response.StatusCode, missing)
			}
		})
	}
}

// TestServeEndsInOrder stops the command while it sends an answer. The answer is sent to its end.
func TestServeEndsInOrder(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows sends no such signals")
	}
	dir := t.TempDir()
	key := "local:" + filepath.Join(dir, "dev.key")
	_, stderr, _, err := execute(t, "keygen", "-o", filepath.Join(dir, "dev.key"))
	require.NoError(t, err, stderr)
	content := noise(30 << 20) // more than the buffers of a connection hold
	s := serve(t, "-k", key, fill(t, map[string]string{"video.mp4": content}, "-k", key))
	response, err := http.Get(s.url + "video.mp4")
	require.NoError(t, err)
	defer response.Body.Close()
	begin := make([]byte, 1000)
	_, err = io.ReadFull(response.Body, begin)
	require.NoError(t, err)
	require.NoError(t, s.command.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool {
		connection, err := net.Dial("tcp", mustParse(s.url).Host)
		if err == nil {
			_ = connection.Close()
		}
		return err != nil
	}, time.Minute, 10*time.Millisecond, "it takes no more connections")
	rest, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(append(begin, rest...), []byte(content)))
	require.NoError(t, <-s.ended)
}

func TestServeStaysOnThisComputer(t *testing.T) {
	dir := t.TempDir()
	key := "local:" + filepath.ToSlash(filepath.Join(dir, "dev.key"))
	_, stderr, _, err := execute(t, "keygen", "-o", filepath.Join(dir, "dev.key"))
	require.NoError(t, err, stderr)
	folder := fill(t, map[string]string{"a": "a"}, "-k", key)
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0"} {
		_, stderr, _, err := execute(t, "serve", "-k", key, "--address", address, folder)
		require.Error(t, err)
		require.Contains(t, stderr, "--allow-remote lets")
	}
	_, stderr, _, err = execute(t, "serve", "-k", key+"x", folder)
	require.Error(t, err)
	require.Contains(t, stderr, "no key file")
	remote := serve(t, "-k", key, "--allow-remote", "--host", "photos.example", folder)
	for host, status := range map[string]int{"photos.example": 200, "Photos.Example:8080": 200, "192.0.2.1": 200, "other.example": 421} {
		response, _ := remote.ask(http.MethodGet, "/", "Host: "+host)
		require.Equal(t, status, response.StatusCode, host)
	}
}
