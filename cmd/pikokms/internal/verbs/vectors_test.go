package verbs

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/internal/telemetry"
	"piko.sh/pikokms/internal/race"
)

// TestDecryptVectors decrypts messages of AWS's SDKs, at least one of each suite.
func TestDecryptVectors(t *testing.T) {
	race.SkipShort(t)
	folder := filepath.Join("..", "..", "..", "..", "testdata", "vectors")
	text, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	require.NoError(t, err)
	var vectors []struct {
		File, Key, Padding, Hash string
		Size                     int
		Context                  map[string]string
	}
	require.NoError(t, json.Unmarshal(text, &vectors))
	require.NotEmpty(t, vectors)
	keys := t.TempDir()
	for _, v := range vectors {
		t.Run(v.File, func(t *testing.T) {
			key, err := os.ReadFile(filepath.Join(folder, v.Key))
			require.NoError(t, err)
			keyFile := filepath.Join(keys, v.Key)
			require.NoError(t, os.WriteFile(keyFile, key, 0o600)) // Git does not keep the mode
			query := url.Values{"namespace": {"vectors"}, "name": {"key"}}
			if v.Padding != "" {
				query.Set("padding", v.Padding)
			}
			if v.Hash != "" {
				query.Set("hash", v.Hash)
			}
			out := filepath.Join(t.TempDir(), "out")
			arguments := []string{"decrypt", "-k", "local:" + filepath.ToSlash(keyFile) + "?" + query.Encode(), "--commitment-policy", "require-encrypt-allow-decrypt", "-o", out}
			for name, value := range v.Context {
				arguments = append(arguments, "-c", name+"="+value)
			}
			require.Zero(t, run(t.Context(), append(arguments, filepath.Join(folder, v.File)), new(telemetry.Session)))
			got, err := os.ReadFile(out)
			require.NoError(t, err)
			want := make([]byte, v.Size)
			for i := range want {
				want[i] = byte(i % 251)
			}
			require.True(t, bytes.Equal(want, got))
		})
	}
}
