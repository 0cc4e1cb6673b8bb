package s3storage_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/s3storage"
)

// listed returns a page of a listing. The token is that of the next one, or empty on the last.
func listed(token string, keys ...string) string {
	var page strings.Builder
	fmt.Fprintf(&page, "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>%v</IsTruncated>", token != "")
	if token != "" {
		fmt.Fprintf(&page, "<NextContinuationToken>%s</NextContinuationToken>", token)
	}
	for _, key := range keys {
		fmt.Fprintf(&page, "<Contents><Key>%s</Key><Size>7</Size><ETag>&quot;e&quot;</ETag><LastModified>2026-11-30T12:00:00.000Z</LastModified></Contents>", url.QueryEscape(key))
	}
	return page.String() + "</ListBucketResult>"
}

// pages answers with the page of each token. An unknown one gets the page that comes at "*".
func pages(t *testing.T, bucket string, byToken map[string]string) *s3storage.Storage {
	b := newBucketInMemory()
	n := 0
	b.setLie(func(w http.ResponseWriter, r *http.Request) bool {
		n++
		page, ok := byToken[r.URL.Query().Get("continuation-token")]
		if !ok {
			page = strings.ReplaceAll(byToken["*"], "NUMBER", fmt.Sprintf("%06d", n))
		}
		w.Header().Set("Content-Type", "application/xml")
		_, _ = io.WriteString(w, page)
		return true
	})
	return s3storage.New(b.serve(t, func(o *s3.Options) { o.DisableS3ExpressSessionAuth = aws.Bool(true) }), bucket)
}

// chain returns n pages without keys and, after them, one with a key.
func chain(n int) map[string]string {
	pages := map[string]string{fmt.Sprint(n): listed("", "a")}
	for i := 1; i < n; i++ {
		pages[fmt.Sprint(i)] = listed(fmt.Sprint(i + 1))
	}
	pages[""] = listed("1")
	return pages
}

func TestListingsAreWholeOrAnError(t *testing.T) {
	race.SkipShort(t)
	const directory = "b--euw1-az1--x-s3"
	for name, c := range map[string]struct {
		bucket  string // "b" if empty
		prefix  string
		pages   map[string]string
		keys    int    // before the error
		refused string // empty if the listing is whole
	}{
		"two pages":                {pages: map[string]string{"": listed("t", "a", "b"), "t": listed("", "c")}, keys: 3},
		"in the order of bytes":    {pages: map[string]string{"": listed("", "A", "a", "a-b", "a.b", "a/", "a/c", "ab", "z\uFFFD", "z😀")}, keys: 9},
		"no objects":               {pages: map[string]string{"": listed("")}},
		"pages without keys":       {pages: map[string]string{"": listed("t"), "t": listed("u"), "u": listed("v", "a"), "v": listed("")}, keys: 1},
		"in no order, a directory": {bucket: directory, pages: map[string]string{"": listed("t", "b", "a"), "t": listed("", "d", "c")}, keys: 4},

		"not whole, no token":                {pages: map[string]string{"": strings.Replace(listed("", "a"), "false", "true", 1)}, refused: "names no next page"},
		"not whole, empty token":             {pages: map[string]string{"": strings.Replace(listed("T", "a"), ">T<", "><", 1)}, refused: "names no next page"},
		"the same token for ever":            {pages: map[string]string{"": listed("t", "a"), "t": listed("t")}, keys: 1, refused: "goes round in circles"},
		"the same page for ever":             {pages: map[string]string{"*": listed("tNUMBER", "a", "b")}, keys: 2, refused: `after the key "b" comes "a"`},
		"two pages for ever":                 {pages: map[string]string{"": listed("t", "a"), "t": listed("u", "b"), "u": listed("t", "a")}, keys: 2, refused: `after the key "b" comes "a"`},
		"two tokens for ever":                {pages: map[string]string{"": listed("t"), "t": listed("u"), "u": listed("t")}, refused: "without a key in a row"},
		"another token for ever":             {pages: map[string]string{"*": listed("tNUMBER")}, refused: "without a key in a row"},
		"a key twice":                        {pages: map[string]string{"": listed("", "a", "a")}, keys: 1, refused: `after the key "a" comes "a"`},
		"a key twice on two pages":           {pages: map[string]string{"": listed("t", "a"), "t": listed("", "a", "b")}, keys: 1, refused: "repeats"},
		"backwards":                          {pages: map[string]string{"": listed("t", "b"), "t": listed("", "a")}, keys: 1, refused: "goes backwards"},
		"outside the prefix":                 {prefix: "p/", pages: map[string]string{"": listed("", "p/a", "q/../../etc/passwd")}, keys: 1, refused: "does not begin with the prefix"},
		"no key":                             {pages: map[string]string{"": listed("", "")}, refused: "has no key"},
		"no size":                            {pages: map[string]string{"": strings.Replace(listed("", "a"), "<Size>7</Size>", "", 1)}, refused: "does not state the size"},
		"less than nothing":                  {pages: map[string]string{"": strings.Replace(listed("", "a"), "7", "-7", 1)}, refused: "does not state the size"},
		"not encoded as it says":             {pages: map[string]string{"": strings.Replace(listed("", "a"), ">a<", ">%zz<", 1)}, refused: "not encoded as it says"},
		"a control character, not encoded":   {pages: map[string]string{"": strings.Replace(strings.Replace(listed("", "a"), ">a<", ">a\uFFFDb<", 1), ">url<", "><", 1)}, refused: "does not encode"},
		"a page without a word about itself": {pages: map[string]string{"": "<ListBucketResult><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>"}, refused: "it is no listing"},
		"nothing":                            {pages: map[string]string{"": ""}, refused: "it is no listing"},
		"HTML":                               {pages: map[string]string{"": "<html><body>Welcome</body></html>"}, refused: "it is no listing"},
		"another XML":                        {pages: map[string]string{"": "<VersioningConfiguration/>"}, refused: "it is no listing"},
		"a directory, the same page":         {bucket: directory, pages: map[string]string{"*": listed("tNUMBER", "b", "a")}, keys: 2, refused: "comes again"},
		"a directory, tokens in circles":     {bucket: directory, pages: map[string]string{"": listed("t", "b"), "t": listed("u", "a"), "u": listed("t", "d")}, keys: 2, refused: "is named again"},
		"a directory, a page without keys":   {bucket: directory, pages: map[string]string{"": listed("t"), "t": listed("", "a")}, keys: 1},
		"1,000 pages without keys":           {pages: chain(1000), keys: 1},
		"1,001 pages without keys":           {pages: chain(1001), refused: "without a key in a row"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.bucket == "" {
				c.bucket = "b"
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			storage := pages(t, c.bucket, c.pages)
			n := 0
			var refused error
			for object, err := range storage.Objects(ctx, c.prefix) {
				if err != nil {
					refused = err
					continue // which must be the last
				}
				require.NoError(t, refused)
				require.EqualValues(t, 7, *object.Size)
				require.Equal(t, `"e"`, *object.ETag)
				require.Equal(t, time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), object.LastModified.UTC())
				n++
			}
			require.Equal(t, c.keys, n, refused)
			if c.refused == "" {
				require.NoError(t, refused)
				return
			}
			require.ErrorIs(t, refused, s3storage.ErrAnswer)
			require.ErrorContains(t, refused, c.refused)
		})
	}
}
