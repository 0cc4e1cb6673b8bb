package verbs

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/web"
	"piko.sh/pikokms/kmstest"
)

// entriesOf returns the names that a page shows.
func entriesOf(page string) (names []string) {
	for _, found := range regexp.MustCompile(`<tr><td><a href="[^"]*">([^\n]*?)</a>`).FindAllStringSubmatch(page, -1) {
		names = append(names, strings.ReplaceAll(found[1], "<wbr>", ""))
	}
	return names
}

// linkOf returns the link of a page to the next or the previous one, or nothing.
func linkOf(page, rel string) string {
	found := regexp.MustCompile(`<a href="\./([^"]*)" rel="` + rel + `">`).FindStringSubmatch(page)
	if found == nil {
		return ""
	}
	return strings.ReplaceAll(found[1], "&amp;", "&")
}

// TestServePages walks through a folder of several pages in both directions, and filters it, in
// every kind of place.
func TestServePages(t *testing.T) {
	startsManyProcesses(t)
	const objects = 2*web.PageSize + 30
	files := make(map[string]string)
	for i := range objects {
		files[fmt.Sprintf("many/Photo-%03d.txt", i)] = fmt.Sprint(i)
	}
	dir := t.TempDir()
	key := "local:" + filepath.ToSlash(filepath.Join(dir, "dev.key"))
	_, stderr, _, err := execute(t, "keygen", "-o", filepath.Join(dir, "dev.key"))
	require.NoError(t, err, stderr)
	folder := fill(t, files, "-k", key)
	_, s3 := newS3Server(t)
	t.Setenv("AWS_ENDPOINT_URL_S3", s3)
	bucket := "s3://bucket/served/?region=eu-west-1&use_path_style=true"
	_, stderr, _, err = execute(t, "rewrap", "-k", key, "--to", key, "-o", bucket, folder)
	require.NoError(t, err, stderr)

	for name, place := range map[string]string{"a folder": folder, "S3": bucket} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "-k", key, place)
			require.Equal(t, files, s.crawl())
			total := " of " + fmt.Sprint(objects)
			more := map[bool]string{true: total, false: ", and more"}[place == folder]
			at, texts := "", []string{"1–100" + more, "101–200" + more, "201–230" + total}
			for i, text := range texts {
				_, page := s.ask(http.MethodGet, "/many/"+at)
				require.Contains(t, page, text)
				require.Equal(t, i > 0, linkOf(page, "prev") != "")
				require.Equal(t, fmt.Sprintf("Photo-%03d.txt", i*web.PageSize), entriesOf(page)[0])
				if at = linkOf(page, "next"); i == len(texts)-1 {
					require.Empty(t, at)
					_, before := s.ask(http.MethodGet, "/many/"+linkOf(page, "prev"))
					require.Contains(t, before, texts[i-1])
				}
			}
			_, page := s.ask(http.MethodGet, "/many/?filter=photo-22")
			require.Contains(t, page, "1–10 of 10")
			require.Len(t, entriesOf(page), 10)
			_, page = s.ask(http.MethodGet, "/many/?filter=photo-1")
			require.Contains(t, page, "1–100 of 100")
			_, page = s.ask(http.MethodGet, "/many/?filter=PHOTO&page=3")
			require.Contains(t, page, "201–230 of 230")
			require.Contains(t, linkOf(page, "prev"), "filter=PHOTO")
			_, page = s.ask(http.MethodGet, "/many/?filter=%3Cb%3E")
			require.Contains(t, page, "No name has that in it.")
			require.NotContains(t, page, "<b>")
			for _, query := range []string{"?page=4", "?page=0", "?page=-1", "?page=x", "?page=99999999999999999999", "?page=9223372036854775807"} {
				response, _ := s.ask(http.MethodGet, "/many/"+query)
				require.Equal(t, http.StatusNotFound, response.StatusCode, query)
			}
		})
	}
}

// TestServeSaysWhatIsInTheWay asks for what can't be shown. The answer has a fitting status and the
// reason, for browsers as a page.
func TestServeSaysWhatIsInTheWay(t *testing.T) {
	startsManyProcesses(t)
	kms := kmstest.NewServer(t)
	url := func(k kmstest.Key) string { return "awskms:///" + k.ARN + "?endpoint=" + kms.URL }
	mine, denied, disabled, other := kms.CreateKey(kmstest.Key{}), kms.CreateKey(kmstest.Key{}), kms.CreateKey(kmstest.Key{}), kms.CreateKey(kmstest.Key{})
	dir := t.TempDir()
	for name, k := range map[string]kmstest.Key{"good": mine, "denied": denied, "disabled": disabled, "other": other, "unreadable": mine} {
		in := filepath.Join(t.TempDir(), "in")
		require.NoError(t, os.WriteFile(in, []byte(name), 0o600))
		_, stderr, _, err := execute(t, "encrypt", "-k", url(k), "-o", filepath.Join(dir, name), in)
		require.NoError(t, err, stderr)
	}
	stored, err := os.ReadFile(filepath.Join(dir, "good"))
	require.NoError(t, err)
	stored[len(stored)-1] ^= 1
	require.NoError(t, os.WriteFile(filepath.Join(dir, "damaged"), stored, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plain"), []byte("plain"), 0o600))
	kms.Inject(kmstest.Fault{Key: denied.ARN, Do: kmstest.Deny()})
	kms.SetState(disabled.ARN, "Disabled")
	s := serve(t, "-k", url(mine), "-k", url(denied), "-k", url(disabled), dir)
	for name, want := range map[string]struct {
		status int
		reason string
	}{
		"good":     {200, ""},
		"denied":   {403, "The key service does not let this view use the object"},
		"disabled": {403, "key is disabled"},
		"other":    {403, "under a key that this view was not given"},
		"plain":    {403, "not encrypted"},
		"damaged":  {500, "damaged"},
		"missing":  {404, "There is no such object."},
	} {
		response, body := s.ask(http.MethodGet, "/"+name)
		require.Equal(t, want.status, response.StatusCode, name)
		require.Contains(t, body, want.reason, name)
		if want.status == 200 {
			continue
		}
		response, page := s.ask(http.MethodGet, "/"+name, "Accept: text/html,*/*;q=0.8")
		require.Equal(t, want.status, response.StatusCode, name)
		require.Equal(t, "text/html; charset=utf-8", response.Header.Get("Content-Type"))
		require.Contains(t, page, "<h1>"+http.StatusText(want.status)+"</h1>")
		require.Contains(t, strings.ReplaceAll(page, "&#39;", "'"), want.reason)
		require.Contains(t, page, `<a href="./">`, "the way back")
		for _, private := range []string{mine.ID, denied.ID, "arn:", "kms:"} {
			require.NotContains(t, page, private)
		}
	}

	server, _ := newS3Server(t)
	var failure atomic.Int32
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := failure.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		server.ServeHTTP(w, r)
	}))
	defer front.Close()
	t.Setenv("AWS_ENDPOINT_URL_S3", front.URL)
	bucket := "s3://bucket/?region=eu-west-1&use_path_style=true"
	_, stderr, _, err := execute(t, "rewrap", "-k", url(mine), "--to", url(mine), "-o", bucket, filepath.Join(dir, "good"))
	require.NoError(t, err, stderr)
	s = serve(t, "-k", url(mine), bucket)
	response, _ := s.ask(http.MethodGet, "/good")
	require.Equal(t, http.StatusOK, response.StatusCode)
	for status, want := range map[int]int{http.StatusForbidden: 403, http.StatusServiceUnavailable: 503} {
		failure.Store(int32(status))
		for _, path := range []string{"/good", "/"} {
			response, _ := s.ask(http.MethodGet, path)
			require.Equal(t, want, response.StatusCode, "%s when S3 answers %d", path, status)
			require.Equal(t, want == 503, response.Header.Get("Retry-After") != "")
		}
		failure.Store(0)
	}
}

// TestServeForPeople checks that times are those of this computer, and that long names can be
// broken.
func TestServeForPeople(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows reads no TZ")
	}
	dir := t.TempDir()
	key := "local:" + filepath.Join(dir, "dev.key")
	_, stderr, _, err := execute(t, "keygen", "-o", filepath.Join(dir, "dev.key"))
	require.NoError(t, err, stderr)
	folder := fill(t, map[string]string{"IMG_2026-01-02_very-long.name.jpg": "x"}, "-k", key)
	at := time.Date(2026, 1, 2, 20, 30, 0, 0, time.UTC)
	require.NoError(t, os.Chtimes(filepath.Join(folder, "IMG_2026-01-02_very-long.name.jpg"), at, at))
	command := exec.Command("pikokms", "serve", "--address", "127.0.0.1:0", "-k", key, folder)
	command.Env = append(os.Environ(), "GORACE="+noRaceSleep, "TZ=Asia/Tokyo")
	s := startServing(t, command)
	_, page := s.ask(http.MethodGet, "/")
	require.Contains(t, html.UnescapeString(page), `<time datetime="2026-01-03T05:30:00+09:00" title="2026-01-03T05:30:00+09:00">2026-01-03 05:30</time>`)
	require.Contains(t, page, "IMG_<wbr>2026-<wbr>01-<wbr>02_<wbr>very-<wbr>long.<wbr>name.<wbr>jpg</a>")
	require.Contains(t, page, `name="viewport" content="width=device-width`)
}
