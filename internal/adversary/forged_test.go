package adversary_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/frame"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// seal makes a message under a data key by hand, with whatever serialised context, encrypted data
// keys and frame length: its writer has the key and keeps to no rule.
func seal(t testing.TB, dataKey, serialised, keys []byte, frameLength uint32, plaintext []byte) []byte {
	t.Helper()
	id := bytes.Repeat([]byte{7}, 32)
	suite := header.AES256GCMHKDFSHA512CommitKey
	aead, commitment, err := suite.DeriveKeys(dataKey, id)
	require.NoError(t, err)
	head := append([]byte{2, 4, 0x78}, id...)
	head = append(binary.BigEndian.AppendUint16(head, uint16(len(serialised))), serialised...)
	head = append(append(head, keys...), 2)
	head = append(binary.BigEndian.AppendUint32(head, frameLength), commitment...)
	head = aead.Seal(head, make([]byte, gcm.IVSize), nil, head)
	body, err := io.ReadAll(frame.NewSealReader(bytes.NewReader(plaintext), frame.Config{AEAD: aead, MessageID: id, Length: 64}))
	require.NoError(t, err)
	return append(head, body...)
}

// wrapped returns the serialised encrypted data keys of one data key under a keyring.
func wrapped(t testing.TB, keyring provider.Keyring, dataKey []byte, pairs map[string]string, times int) []byte {
	t.Helper()
	key, err := provider.NewSecureBytes(bytes.Clone(dataKey))
	require.NoError(t, err)
	defer key.Close()
	b := binary.BigEndian.AppendUint16(nil, uint16(times))
	for range times {
		k, err := keyring.WrapDataKey(t.Context(), key, pairs)
		require.NoError(t, err)
		for _, part := range [][]byte{[]byte(k.ProviderID), k.ProviderInfo, k.Ciphertext} {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(part))), part...)
		}
	}
	return b
}

// TestMessagesOfAWriterWithTheKey opens messages that are sealed as they should be, under the right
// key, and break the format's rules: each has one form alone.
func TestMessagesOfAWriterWithTheKey(t *testing.T) {
	key := newKey(t, 1, "")
	d := &message.Decrypter{Keyrings: []provider.Unwrapper{key}}
	dataKey := bytes.Repeat([]byte{9}, 32)
	keys := wrapped(t, key, dataKey, nil, 1)
	good := seal(t, dataKey, nil, keys, 64, pattern(1, 200))
	got, _, err := d.Decrypt(t.Context(), good, nil)
	require.NoError(t, err, "the test can't make a message")
	require.Equal(t, pattern(1, 200), got)

	r := rand.New(rand.NewPCG(1, 6))
	refused := 0
	refuse := func(what string, sealed []byte) {
		t.Helper()
		for _, door := range doors {
			got, err := door.open(t.Context(), d, sealed, 50)
			require.Error(t, err, "%s by %s", what, door.name)
			require.Empty(t, got)
			refused++
		}
	}
	for range 500 {
		serialised := adversary.HostileContext(r)
		pairs, unique := pairsOf(serialised)
		if unique {
			continue // one that a writer can make
		}
		refuse(fmt.Sprintf("context %x", serialised), seal(t, dataKey, serialised, wrapped(t, key, dataKey, pairs, 1), 64, nil))
	}
	refuse("17 data keys", seal(t, dataKey, nil, wrapped(t, key, dataKey, nil, 17), 64, nil))
	refuse("no data key", seal(t, dataKey, nil, []byte{0, 0}, 64, nil))
	refuse("frames of no byte", seal(t, dataKey, nil, keys, 0, pattern(1, 200)))
	refuse("frames over 64 MiB", seal(t, dataKey, nil, keys, 64<<20+1, pattern(1, 20)))
	refuse("frames of 4 GiB", seal(t, dataKey, nil, keys, 1<<32-1, pattern(1, 20)))
	t.Logf("%d refusals", refused)
}

// pairsOf parses a serialised context loosely, and reports whether it is one that the format has.
func pairsOf(b []byte) (map[string]string, bool) {
	pairs := make(map[string]string)
	rest := b[2:]
	for range binary.BigEndian.Uint16(b) {
		var part [2]string
		for i := range part {
			if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
				return nil, false
			}
			n := int(binary.BigEndian.Uint16(rest))
			part[i], rest = string(rest[2:2+n]), rest[2+n:]
		}
		pairs[part[0]] = part[1]
	}
	again, err := header.AppendContext(nil, pairs)
	if err != nil {
		return nil, false
	}
	return pairs, bytes.Equal(again, b)
}

// field is GF(2¹²⁸) as GHASH has it (NIST SP 800-38D, section 6.3), to solve for tags.
func product(x, y [16]byte) (z [16]byte) {
	v := y
	for i := range 128 {
		if x[i/8]&(0x80>>(i%8)) != 0 {
			xor(&z, v)
		}
		low := v[15] & 1
		for j := 15; j > 0; j-- {
			v[j] = v[j]>>1 | v[j-1]<<7
		}
		v[0] >>= 1
		if low != 0 {
			v[0] ^= 0xe1
		}
	}
	return z
}

func xor(z *[16]byte, x [16]byte) {
	for i := range z {
		z[i] ^= x[i]
	}
}

// inverse returns x to the power 2¹²⁸−2.
func inverse(x [16]byte) [16]byte {
	result := [16]byte{0x80} // one
	exponent := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(2))
	for i := exponent.BitLen() - 1; i >= 0; i-- {
		result = product(result, result)
		if exponent.Bit(i) == 1 {
			result = product(result, x)
		}
	}
	return result
}

// twoTags is a GCM key with what its tags are made of.
type twoTags struct {
	block cipher.Block
	h     [16]byte
}

func newTags(t testing.TB, key []byte) twoTags {
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	k := twoTags{block: block}
	block.Encrypt(k.h[:], k.h[:])
	return k
}

// tag returns the tag of additional data and ciphertext.
func (k twoTags) tag(iv, additional, ciphertext []byte) (tag [16]byte) {
	for _, part := range [][]byte{additional, ciphertext} {
		for block := range slices.Chunk(part, 16) {
			var padded [16]byte
			copy(padded[:], block)
			xor(&tag, padded)
			tag = product(tag, k.h)
		}
	}
	var lengths [16]byte
	binary.BigEndian.PutUint64(lengths[:], 8*uint64(len(additional)))
	binary.BigEndian.PutUint64(lengths[8:], 8*uint64(len(ciphertext)))
	xor(&tag, lengths)
	tag = product(tag, k.h)
	var mask [16]byte
	copy(mask[:], iv)
	mask[15] = 1
	k.block.Encrypt(mask[:], mask[:])
	xor(&tag, mask)
	return tag
}

// collide sets a block of 16 bytes, at an offset within the additional data or the ciphertext, so
// that both keys have one tag. Tags are linear in each block.
func collide(a, b twoTags, iv, additional, ciphertext, free []byte, blocksAfter int) [16]byte {
	clear(free)
	difference := a.tag(iv, additional, ciphertext)
	xor(&difference, b.tag(iv, additional, ciphertext))
	power := func(h [16]byte) [16]byte {
		p := h
		for range blocksAfter {
			p = product(p, h)
		}
		return p
	}
	factor := power(a.h)
	xor(&factor, power(b.h))
	solved := product(difference, inverse(factor))
	copy(free, solved[:])
	return a.tag(iv, additional, ciphertext)
}

// blocksFrom returns how many blocks come after the one at offset at, the lengths' block included.
func blocksFrom(at, additional, ciphertext int, inCiphertext bool) int {
	blocks := func(n int) int { return (n + 15) / 16 }
	if inCiphertext {
		return blocks(ciphertext) - at/16
	}
	return blocks(additional) - at/16 + blocks(ciphertext)
}

// underTwoKeys makes a message of a suite without key commitment that opens under two data keys, to
// two plaintexts. It is what commitment is there to refuse (Dodis, Grubbs, Ristenpart, Woodage:
// "Fast Message Franking").
func underTwoKeys(t *testing.T, keyring provider.Keyring, second provider.Keyring, dataKeys [2][]byte) []byte {
	t.Helper()
	a, b := newTags(t, dataKeys[0]), newTags(t, dataKeys[1])
	id := bytes.Repeat([]byte{3}, 16)
	// The free block of the header stands in the ciphertext of a third data key, which nobody opens.
	first, other := wrapped(t, keyring, dataKeys[0], nil, 1)[2:], wrapped(t, second, dataKeys[1], nil, 1)[2:]
	head := append([]byte{1, 0x80, 0, 0x78}, id...)
	head = append(head, 0, 0, 0, 3)
	head = append(append(head, first...), other...)
	head = append(head, 0, 6)
	head = append(head, "nobody"...)
	head = append(head, 0, 1, 'x', 0, 48)
	free := (len(head) + 15) / 16 * 16
	end := len(head) + 48
	head = append(head, make([]byte, 48)...)
	require.LessOrEqual(t, free+16, end)
	head = append(head, 2, 0, 0, 0, 0, 12)
	head = binary.BigEndian.AppendUint32(head, 64)
	iv := make([]byte, 12)
	tag := collide(a, b, iv, head, nil, head[free:free+16], blocksFrom(free, len(head), 0, false))
	sealed := append(append(bytes.Clone(head), iv...), tag[:]...)

	frameIV := make([]byte, 12)
	frameIV[11] = 1
	ciphertext := bytes.Repeat([]byte{0x5a}, 48)
	additional := append(bytes.Clone(id), "AWSKMSEncryptionClient Final Frame"...)
	additional = append(additional, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 48)
	tag = collide(a, b, frameIV, additional, ciphertext, ciphertext[16:32], blocksFrom(16, len(additional), len(ciphertext), true))
	sealed = append(sealed, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1)
	sealed = append(append(sealed, frameIV...), 0, 0, 0, 48)
	return append(append(sealed, ciphertext...), tag[:]...)
}

// TestAMessageUnderTwoKeys has a message that two readers open to two contents. The default refuses
// it. The suites that are written can't have one, since they commit to their key.
func TestAMessageUnderTwoKeys(t *testing.T) {
	first, second := newKey(t, 1, "first"), newKey(t, 2, "second")
	dataKeys := [2][]byte{bytes.Repeat([]byte{4}, 32), bytes.Repeat([]byte{5}, 32)}
	sealed := underTwoKeys(t, first, second, dataKeys)
	var contents [][]byte
	for _, keyring := range []provider.Unwrapper{first, second} {
		open := &message.Decrypter{Keyrings: []provider.Unwrapper{keyring}, CommitmentPolicy: message.RequireEncryptAllowDecrypt}
		got, _, err := open.Decrypt(t.Context(), sealed, nil)
		require.NoError(t, err, "the attack does not work on a suite without commitment, so this test shows nothing")
		contents = append(contents, got)
		for _, door := range doors {
			_, err := door.open(t.Context(), &message.Decrypter{Keyrings: []provider.Unwrapper{keyring}}, sealed, 20)
			require.ErrorIs(t, err, message.ErrCommitmentPolicy, door.name)
		}
	}
	require.NotEqual(t, contents[0], contents[1])

	// With commitment: a message that names both data keys opens under the one that it commits to.
	keys := wrapped(t, first, dataKeys[0], nil, 1)
	keys = append(binary.BigEndian.AppendUint16(nil, 2), append(keys[2:], wrapped(t, second, dataKeys[1], nil, 1)[2:]...)...)
	committed := seal(t, dataKeys[0], nil, keys, 64, []byte("one content"))
	got, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{first}}).Decrypt(t.Context(), committed, nil)
	require.NoError(t, err)
	require.Equal(t, "one content", string(got))
	for _, policy := range []message.CommitmentPolicy{message.RequireEncryptRequireDecrypt, message.RequireEncryptAllowDecrypt} {
		for _, door := range doors {
			d := &message.Decrypter{Keyrings: []provider.Unwrapper{second}, CommitmentPolicy: policy}
			_, err := door.open(t.Context(), d, committed, 20)
			require.ErrorIs(t, err, header.ErrAuthentication, door.name)
		}
	}
}

// TestForeignKeysAreNotAskedAbout has messages that name keys of AWS KMS that are not ours, alone,
// many times, and before ours. KMS is asked about ours alone, and not more often than agreed.
func TestForeignKeysAreNotAskedAbout(t *testing.T) {
	race.SkipShort(t)
	server := kmstest.NewServer(t)
	ours := server.CreateKey(kmstest.Key{})
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := kms.New(kms.Options{
		Region: ours.Region, BaseEndpoint: aws.String(server.URL), Retryer: aws.NopRetryer{}, Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
		HTTPClient: &http.Client{Transport: transport},
	})
	p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: ours.ARN, Client: client})
	require.NoError(t, err)
	sealed, err := (&message.Encrypter{Keyring: p}).Encrypt(t.Context(), []byte("text"), nil)
	require.NoError(t, err)
	m, err := adversary.Split(sealed, []byte("text"))
	require.NoError(t, err)
	d := &message.Decrypter{Keyrings: []provider.Unwrapper{p}}
	r := rand.New(rand.NewPCG(1, 7))
	server.Reset()
	asked := 0
	for range 2000 {
		_, changed := m.Mutate(r, m)
		calls := server.Calls("")
		_, _, err := d.Decrypt(t.Context(), changed, nil)
		require.Error(t, err)
		calls = server.Calls("") - calls
		require.LessOrEqual(t, calls, header.Limits{}.WithDefaults().MaxAttempts)
		asked += calls
	}
	for _, request := range server.Requests() {
		require.Equal(t, ours.ARN, request.KeyID, "KMS is asked about a key that is not ours")
	}
	for _, arn := range []string{
		adversary.ForeignARN, "", ours.ID, "alias/ours", ours.ARN + "0", ours.ARN[:len(ours.ARN)-1], "arn:aws:kms:eu-west-1:999999999999:key/" + ours.ID, "arn:aws-cn" + ours.ARN[len("arn:aws"):],
		"https://evil.example/", ours.ARN + "\x00", " " + ours.ARN, string(bytes.ToUpper([]byte(ours.ARN))),
	} {
		server.Reset()
		h, size, err := header.Parse(sealed, header.Limits{})
		require.NoError(t, err)
		k := h.EncryptedDataKeys[0]
		keys := binary.BigEndian.AppendUint16(nil, 1)
		for _, part := range [][]byte{[]byte("aws-kms"), []byte(arn), k.Ciphertext} {
			keys = append(binary.BigEndian.AppendUint16(keys, uint16(len(part))), part...)
		}
		foreign := seal(t, bytes.Repeat([]byte{1}, 32), nil, keys, 64, nil)
		_, _, err = d.Decrypt(t.Context(), foreign, nil)
		require.ErrorIs(t, err, provider.ErrUntrustedKey, arn)
		require.Zero(t, server.Calls(""), arn)
		_ = size
	}
	t.Logf("2,000 changed messages: %d calls of KMS, all about our key", asked)
}

// zeros is so many zero bytes.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestDecompressionBombs has objects of a few KiB whose writer has the key, and which decompress to
// 256 MiB. A reader that allows 1 MiB takes no more memory than that, at any door.
func TestDecompressionBombs(t *testing.T) {
	race.SkipShort(t)
	const bound = 1 << 20
	size := int64(256 << 20)
	if testing.Short() || race.Enabled {
		size = 64 << 20
	}
	key := newKey(t, 1, "")
	for _, format := range compress.Formats() {
		memory := adversary.NewMemory()
		open := func(options ...pikokms.Option) *pikokms.Host {
			h, err := pikokms.New(append(options, pikokms.WithStorage(memory), pikokms.WithCryptoProvider("k", key), pikokms.WithDefaultCryptoProvider("k"), pikokms.WithEnabledTransformers(format))...)
			require.NoError(t, err)
			return h
		}
		require.NoError(t, open().Put(t.Context(), "bomb", zeros(size)))
		stored := memory.Bytes("bomb")
		h := open(pikokms.WithMaxDecompressedSize(bound))
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		doors := map[string]func() (int64, error){
			"Get": func() (int64, error) {
				r, err := h.Get(t.Context(), "bomb")
				if err != nil {
					return 0, err
				}
				defer r.Close()
				return io.Copy(io.Discard, r)
			},
			"Open": func() (int64, error) {
				o, err := h.Open(t.Context(), "bomb")
				if errors.Is(err, pikokms.ErrNotSeekable) {
					err = fmt.Errorf("%w: %w", compress.ErrTooLarge, err)
				}
				if err != nil {
					return 0, err
				}
				defer o.Close()
				return io.Copy(io.Discard, o)
			},
			"DecryptObject": func() (int64, error) {
				r, _, err := h.DecryptObject(t.Context(), "bomb", bytes.NewReader(stored), int64(len(stored)), nil)
				if err != nil {
					return 0, err
				}
				return io.Copy(io.Discard, r)
			},
		}
		for name, door := range doors {
			n, err := door()
			require.ErrorIs(t, err, compress.ErrTooLarge, "%s of %s", name, format)
			require.LessOrEqual(t, n, int64(bound), "%s of %s", name, format)
		}
		runtime.ReadMemStats(&after)
		taken := after.TotalAlloc - before.TotalAlloc
		t.Logf("%-14s %8d bytes stored, which are %d: %5.1f MiB allocated at %d doors", format, len(stored), size, float64(taken)/(1<<20), len(doors))
		require.Less(t, taken, uint64(128<<20))
		require.NoError(t, h.Close())
	}
}

// TestANegatedSignature replaces the signature (r, s) of a signed message by (r, n-s), which is one
// of the same signer over the same bytes. AWS's SDKs write either form, so both must be read. It is
// the only change of a message that is not noticed.
func TestANegatedSignature(t *testing.T) {
	key := newKey(t, 1, "")
	sealed, err := (&message.Encrypter{Keyring: key, Suite: signedSuite}).Encrypt(t.Context(), []byte("text"), nil)
	require.NoError(t, err)
	m, err := adversary.Split(sealed, []byte("text"))
	require.NoError(t, err)
	var signature struct{ R, S *big.Int }
	_, err = asn1.Unmarshal(m.Footer[2:], &signature)
	require.NoError(t, err)
	signature.S.Sub(elliptic.P384().Params().N, signature.S)
	negated, err := asn1.Marshal(signature)
	require.NoError(t, err)
	changed := slices.Concat(m.Head, slices.Concat(m.Frames...), binary.BigEndian.AppendUint16(nil, uint16(len(negated))), negated)
	require.NotEqual(t, sealed, changed)
	got, _, err := (&message.Decrypter{Keyrings: []provider.Unwrapper{key}}).Decrypt(t.Context(), changed, nil)
	require.NoError(t, err)
	require.Equal(t, "text", string(got))

	signature.S.Add(signature.S, elliptic.P384().Params().N)
	negated, err = asn1.Marshal(signature)
	require.NoError(t, err)
	changed = slices.Concat(m.Head, slices.Concat(m.Frames...), binary.BigEndian.AppendUint16(nil, uint16(len(negated))), negated)
	_, _, err = (&message.Decrypter{Keyrings: []provider.Unwrapper{key}}).Decrypt(t.Context(), changed, nil)
	require.ErrorIs(t, err, provider.ErrDecryptionFailed, "numbers over the group's order")
}
