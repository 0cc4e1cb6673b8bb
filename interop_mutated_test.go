package pikokms_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

var mutated = flag.Int("interop.mutated", 2000, "how many changed messages TestPythonSDKRefusesWhatWeRefuse tries")

// TestPythonSDKRefusesWhatWeRefuse has AWS's SDK for Python and this module open messages that were
// changed in every way. Both refuse each of them. One thing only is refused here alone: bytes after
// a whole message, at which the SDK does not look.
func TestPythonSDKRefusesWhatWeRefuse(t *testing.T) {
	raw := bytes.Repeat([]byte{9}, 32)
	p, err := local.NewProvider(local.Config{Key: bytes.Clone(raw), Namespace: "interop", Name: "key"})
	require.NoError(t, err)
	sdk := newPythonSDK(t)
	key := sdkKey{Namespace: "interop", Name: "key", Key: raw}
	d := message.Decrypter{Keyrings: []provider.Unwrapper{p}, CommitmentPolicy: message.RequireEncryptAllowDecrypt}
	for _, suite := range []header.Suite{0x0478, 0x0578, 0x0178, 0x0378} {
		var messages []*adversary.Message
		for i, size := range []int{0, 1, 128, 300, 515} {
			context := map[string]string{"tenant": "acme", "z": fmt.Sprint(i)}
			answer := sdk.ask(sdkRequest{Op: "encrypt", Key: key, Suite: suite, Context: context, FrameLength: 128, Data: vectorPlaintext(size)})
			require.Empty(t, answer.Error)
			m, err := adversary.Split(answer.Data, vectorPlaintext(size))
			require.NoError(t, err)
			messages = append(messages, m)
		}
		r := rand.New(rand.NewPCG(7, uint64(suite)))
		byBoth, trailing := 0, 0
		for range *mutated / 4 {
			m, other := messages[r.IntN(len(messages))], messages[r.IntN(len(messages))]
			kind, changed := m.Mutate(r, other)
			got, _, err := d.Decrypt(t.Context(), changed, nil)
			require.Error(t, err, "%v, %s: accepted here: %x", suite, kind.Name, changed)
			require.Empty(t, got)
			answer := sdk.ask(sdkRequest{Op: "decrypt", Key: key, Suite: suite, Data: changed})
			if answer.Error != "" {
				byBoth++
				continue
			}
			whole := m
			if !bytes.HasPrefix(changed, m.Sealed) {
				whole = other
			}
			require.True(t, bytes.HasPrefix(changed, whole.Sealed), "%v, %s: the SDK accepts it: %x", suite, kind.Name, changed)
			require.Equal(t, string(whole.Plaintext), string(answer.Data))
			trailing++
		}
		t.Logf("%v: %d refused by both, %d with bytes after a whole message refused here alone", suite, byBoth, trailing)
	}
}
