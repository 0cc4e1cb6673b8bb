package message_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// noting keeps a masked copy of each data key that goes through a keyring.
type noting struct {
	provider.Keyring
	mu     sync.Mutex
	masked [][]byte
}

func mask(key []byte) []byte {
	masked := make([]byte, len(key))
	for i, b := range key {
		masked[i] = ^b
	}
	return masked
}

func (n *noting) note(key *provider.SecureBytes) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return key.WithAccess(func(plain []byte) error {
		n.masked = append(n.masked, mask(plain))
		return nil
	})
}

func (n *noting) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	made, err := n.Keyring.GenerateDataKey(ctx, request)
	if err == nil {
		err = n.note(made.PlaintextKey)
	}
	return made, err
}

func (n *noting) WrapDataKey(ctx context.Context, key *provider.SecureBytes, encryptionContext map[string]string) (header.EncryptedDataKey, error) {
	if err := n.note(key); err != nil {
		return header.EncryptedDataKey{}, err
	}
	return n.Keyring.WrapDataKey(ctx, key, encryptionContext)
}

// remains counts the places where the memory of the process has the plain form of a masked key. It
// makes no plain copy itself. Freed memory counts, too.
func remains(t *testing.T, masked [][]byte) (plain, found int) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip("the memory of the process can't be read here:", err)
	}
	memory, err := os.Open("/proc/self/mem")
	require.NoError(t, err)
	defer memory.Close()
	byStart := make(map[uint64][][]byte)
	for _, m := range masked {
		start := binary.LittleEndian.Uint64(m)
		byStart[start] = append(byStart[start], m)
	}
	buf := make([]byte, 1<<20)
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 || !strings.HasPrefix(mode, "rw") {
			continue
		}
		for ; from < to; from += int64(len(buf)) - 64 {
			n, err := memory.ReadAt(buf[:min(int64(len(buf)), to-from)], from)
			if err != nil {
				break // what the system does not show
			}
			for at := 0; at+32 <= n; at += 8 { // what the allocator gives is aligned
				word := binary.LittleEndian.Uint64(buf[at:])
				for _, m := range byStart[word] {
					if bytes.Equal(m, buf[at:at+len(m)]) {
						found++
					}
				}
				for _, m := range byStart[^word] {
					same := true
					for i, b := range m {
						same = same && buf[at+i] == ^b
					}
					if same {
						plain++
					}
				}
			}
			clear(buf)
		}
	}
	return plain, found
}

// After messages were encrypted and decrypted, no plain data key is left in the memory of the
// process, by this module's code or by the standard library's.
func TestNoPlainDataKeyStays(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector keeps memory")
	}
	key := &noting{Keyring: newKey(t, 1, "")}
	for _, e := range []*message.Encrypter{{Keyring: key}, {Keyring: key, Suite: signedSuite}, {Keyring: key, Recipients: []provider.Keyring{newKey(t, 2, "second")}}} {
		for range 20 {
			_, _, err := decrypter(key).Decrypt(t.Context(), encrypt(t, e, []byte("text"), nil), nil)
			require.NoError(t, err)
		}
	}
	require.Len(t, key.masked, 60)
	plain, found := remains(t, key.masked)
	require.GreaterOrEqual(t, found, len(key.masked), "what is in memory is found")
	require.Zero(t, plain, "copies of %d data keys", len(key.masked))
}
