package gcpkms_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/leftover"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/provider/gcpkms"
	"piko.sh/pikokms/provider/gcpkms/gcpkmstest"
)

// memoryKMS is in the environment of the process whose memory is read, which is the test again: the
// URL of Cloud KMS and a key's resource name.
const memoryKMS = "PIKOKMS_MEMORY_KMS"

// use encrypts and decrypts, and reports the data keys.
func use(t *testing.T) {
	url, key, _ := strings.Cut(os.Getenv(memoryKMS), " ")
	p, err := gcpkms.NewProvider(t.Context(), gcpkms.Config{
		ProjectID: gcpkmstest.Project, Location: gcpkmstest.Location, KeyRing: gcpkmstest.KeyRing, KeyName: key[strings.LastIndex(key, "/")+1:],
		Endpoint: url,
	})
	require.NoError(t, err)
	leftover.Use(t, &leftover.Masking{EncryptionProvider: p}, p)
}

// TestNoKeyStaysInMemory reads the whole memory of a process that has encrypted and decrypted, in
// search of data keys. Only messages in the memory of gRPC have them: requests to encrypt, and
// answers to decrypt. In a request, the tag of the field and the length of the key stand before it.
// In an answer, a frame that is read later, such as a PING, may overwrite those. The tag of the
// field behind the key stays, and shows what it is.
func TestNoKeyStaysInMemory(t *testing.T) {
	if os.Getenv(memoryKMS) != "" {
		use(t)
		return
	}
	if race.Enabled {
		t.Skip("the race detector keeps memory")
	}
	server := gcpkmstest.NewServer(t)
	process := leftover.Start(t, "TestNoKeyStaysInMemory", memoryKMS+"="+server.URL+" "+server.CreateKey(gcpkmstest.Key{}))
	observed := func(phase string) (held, left int) {
		var masked [][]byte
		process.Next(t, &masked)
		secrets := make(leftover.Secrets)
		for i, m := range masked {
			key := leftover.Mask(m)
			secrets[fmt.Sprint("data key ", i)] = key
			secrets[fmt.Sprint("data key in a request ", i)] = append([]byte{2<<3 | 2, 32}, key...)
			secrets[fmt.Sprint("data key in an answer ", i)] = append(bytes.Clone(key), 2<<3|2)
		}
		found := process.Search(t, secrets)
		for name, places := range found {
			for _, at := range places {
				if strings.HasPrefix(name, "data key ") && !at.InCoreDump() {
					held++
				}
			}
		}
		counts := found.Counts(t, phase)
		return held, counts["data key"].Alone - held - counts["data key in a request"].Alone - counts["data key in an answer"].Alone
	}
	held, left := observed("open")
	require.Equal(t, 1, held, "the search finds what is there")
	require.Zero(t, left)
	process.GoOn(t)
	held, left = observed("closed")
	require.Zero(t, held)
	require.Zero(t, left)
}
