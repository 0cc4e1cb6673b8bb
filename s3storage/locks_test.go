package s3storage_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/s3storage"
)

// TestLocksAreAskedForWhereTheAnswerHidesThem has each of what a GET states of a lock, and what S3
// answers about it.
func TestLocksAreAskedForWhereTheAnswerHidesThem(t *testing.T) {
	until, ended := time.Now().Add(time.Hour).UTC().Format(time.RFC3339), time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	const enabled = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
	retention := func(until string) string {
		return "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>" + until + "</RetainUntilDate></Retention>"
	}
	hold := func(status string) string { return "<LegalHold><Status>" + status + "</Status></LegalHold>" }
	stated := func(mode, until, hold string) map[string]string {
		return map[string]string{"X-Amz-Object-Lock-Mode": mode, "X-Amz-Object-Lock-Retain-Until-Date": until, "X-Amz-Object-Lock-Legal-Hold": hold}
	}
	for name, c := range map[string]struct {
		version string
		headers map[string]string
		bucket  string // the answer about the bucket; empty if its objects have no locks
		answers map[string]string
		asked   string // of the object, in order
		mode    string // of the replacement
		hold    string
	}{
		"no versions":      {bucket: enabled},
		"no locks":         {version: "v1"},
		"not enabled":      {version: "v1", bucket: strings.Replace(enabled, "Enabled<", "Disabled<", 1)},
		"all stated":       {version: "v1", bucket: enabled, headers: stated("GOVERNANCE", until, "ON"), mode: "GOVERNANCE", hold: "ON"},
		"hold is hidden":   {version: "v1", bucket: enabled, headers: stated("GOVERNANCE", until, ""), answers: map[string]string{"legal-hold": hold("ON")}, asked: "legal-hold", mode: "GOVERNANCE", hold: "ON"},
		"mode is hidden":   {version: "v1", bucket: enabled, headers: stated("", "", "ON"), answers: map[string]string{"retention": retention(until)}, asked: "retention", mode: "COMPLIANCE", hold: "ON"},
		"both are hidden":  {version: "v1", bucket: enabled, answers: map[string]string{"retention": retention(until), "legal-hold": hold("ON")}, asked: "retention legal-hold", mode: "COMPLIANCE", hold: "ON"},
		"no hold":          {version: "v1", bucket: enabled, answers: map[string]string{"retention": retention(until), "legal-hold": hold("OFF")}, asked: "retention legal-hold", mode: "COMPLIANCE"},
		"has ended":        {version: "v1", bucket: enabled, headers: stated("GOVERNANCE", ended, "ON"), hold: "ON"},
		"has ended, asked": {version: "v1", bucket: enabled, answers: map[string]string{"retention": retention(ended), "legal-hold": hold("ON")}, asked: "retention legal-hold", hold: "ON"},
		"neither":          {version: "v1", bucket: enabled, asked: "retention legal-hold"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBucketInMemory()
			b.objects["object"] = []byte("x")
			var asked []string
			locked := make(map[string]string) // by property, what the replacement gets
			answer := func(w http.ResponseWriter, text, none string) bool {
				if text == "" {
					w.WriteHeader(http.StatusNotFound)
					text = "<Error><Code>" + none + "</Code></Error>"
				}
				_, _ = io.WriteString(w, text)
				return true
			}
			b.setLie(func(w http.ResponseWriter, r *http.Request) bool {
				query := r.URL.Query()
				if query.Has("object-lock") {
					return answer(w, c.bucket, "ObjectLockConfigurationNotFoundError")
				}
				for _, property := range []string{"retention", "legal-hold"} {
					if query.Has(property) && r.Method == http.MethodPut {
						body, _ := io.ReadAll(r.Body)
						locked[property] = string(body)
						return true
					}
					if query.Has(property) {
						asked = append(asked, property)
						return answer(w, c.answers[property], "NoSuchObjectLockConfiguration")
					}
				}
				if r.Method == http.MethodGet {
					for name, value := range c.headers {
						if value != "" {
							w.Header().Set(name, value)
						}
					}
					if c.version != "" {
						w.Header().Set("X-Amz-Version-Id", c.version)
					}
				}
				return false
			})
			storage := s3storage.New(b.serve(t), "b")
			v, err := storage.OpenVersion(t.Context(), "object", "")
			require.NoError(t, err)
			defer v.Body.Close()
			require.NoError(t, storage.Replace(t.Context(), v, strings.NewReader("y")))
			require.Equal(t, "y", string(b.content("object")))
			require.Equal(t, c.asked, strings.Join(asked, " "))
			for property, want := range map[string]string{"retention": c.mode, "legal-hold": c.hold} {
				require.Contains(t, locked[property], want)
				require.Equal(t, want != "", locked[property] != "", "%s: %s", property, locked[property])
			}
		})
	}
}
