package frame_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"io"
	"strings"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"piko.sh/pikokms/internal/frame"
)

func config(length int) frame.Config {
	block, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return frame.Config{AEAD: aead, MessageID: bytes.Repeat([]byte{0x1D}, 32), Length: length}
}

// pattern is plaintext of which no 8 bytes repeat within a test's reach.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8)*31 + byte(i)*7 + 1
	}
	return b
}

// handmade lays a body out from the specification's tables, one frame an element. fullLast lets
// the final frame be full, as the format allows and this package never writes.
func handmade(c frame.Config, plaintext []byte, fullLast bool) [][]byte {
	seal := func(start []byte, kind string, n uint32, content []byte) []byte {
		iv := binary.BigEndian.AppendUint32(make([]byte, 8), n)
		additional := binary.BigEndian.AppendUint32(append(bytes.Clone(c.MessageID), kind...), n)
		additional = binary.BigEndian.AppendUint64(additional, uint64(len(content)))
		return c.AEAD.Seal(start, iv, content, additional)
	}
	var frames [][]byte
	n := uint32(1)
	for ; len(plaintext) > c.Length || !fullLast && len(plaintext) == c.Length; n++ {
		start := binary.BigEndian.AppendUint32(nil, n)
		start = binary.BigEndian.AppendUint32(append(start, make([]byte, 8)...), n)
		frames = append(frames, seal(start, "AWSKMSEncryptionClient Frame", n, plaintext[:c.Length]))
		plaintext = plaintext[c.Length:]
	}
	start := binary.BigEndian.AppendUint32([]byte{0xff, 0xff, 0xff, 0xff}, n)
	start = binary.BigEndian.AppendUint32(append(start, make([]byte, 8)...), n)
	start = binary.BigEndian.AppendUint32(start, uint32(len(plaintext)))
	return append(frames, seal(start, "AWSKMSEncryptionClient Final Frame", n, plaintext))
}

func body(c frame.Config, plaintext []byte) []byte {
	return bytes.Join(handmade(c, plaintext, false), nil)
}

// onlyReader and onlyWriter hide the other methods of a reader or writer, such as WriteTo.
type onlyReader struct{ io.Reader }

type onlyWriter struct{ io.Writer }

// sizes is an endless supply of sizes to read and write by.
type sizes func() int

func drawnSizes(t *rapid.T, most int) sizes {
	drawn := rapid.SliceOfN(rapid.IntRange(1, most), 1, 8).Draw(t, "sizes")
	i := 0
	return func() int {
		i++
		return drawn[i%len(drawn)]
	}
}

func always(n int) sizes { return func() int { return n } }

func readBy(r io.Reader, next sizes) ([]byte, error) {
	var got []byte
	for {
		p := make([]byte, next())
		n, err := r.Read(p)
		got = append(got, p[:n]...)
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return got, err
		}
	}
}

func writeBy(w io.Writer, b []byte, next sizes) error {
	for len(b) > 0 {
		n := min(next(), len(b))
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// way turns the bytes of src into the package's output, by pull or push, in pieces.
type way struct {
	name string
	run  func(c frame.Config, src io.Reader, next sizes) ([]byte, error)
}

var sealWays = []way{
	{"SealReader.Read", func(c frame.Config, src io.Reader, next sizes) ([]byte, error) {
		return readBy(frame.NewSealReader(src, c), next)
	}},
	{"SealReader.WriteTo", func(c frame.Config, src io.Reader, _ sizes) ([]byte, error) {
		var out bytes.Buffer
		n, err := frame.NewSealReader(src, c).WriteTo(onlyWriter{&out})
		return out.Bytes(), checkCount(n, out.Len(), err)
	}},
	{"SealReader.Read then WriteTo", func(c frame.Config, src io.Reader, next sizes) ([]byte, error) {
		r := frame.NewSealReader(src, c)
		first := make([]byte, next())
		n, err := r.Read(first)
		if err != nil {
			return first[:n], err
		}
		out := bytes.NewBuffer(first[:n])
		_, err = r.WriteTo(out)
		return out.Bytes(), err
	}},
	{"SealWriter.Write", func(c frame.Config, src io.Reader, next sizes) ([]byte, error) {
		var out bytes.Buffer
		w := frame.NewSealWriter(&out, c)
		plaintext, err := io.ReadAll(src)
		if err == nil {
			err = writeBy(w, plaintext, next)
		}
		if err == nil {
			err = w.Close()
		}
		return out.Bytes(), err
	}},
	{"SealWriter.ReadFrom", func(c frame.Config, src io.Reader, _ sizes) ([]byte, error) {
		var out bytes.Buffer
		w := frame.NewSealWriter(&out, c)
		if _, err := w.ReadFrom(src); err != nil {
			return out.Bytes(), err
		}
		err := w.Close()
		return out.Bytes(), err
	}},
	{"SealWriter.Write, ReadFrom, Write", func(c frame.Config, src io.Reader, next sizes) ([]byte, error) {
		var out bytes.Buffer
		w := frame.NewSealWriter(&out, c)
		plaintext, err := io.ReadAll(src)
		if err != nil {
			return nil, err
		}
		a, b := len(plaintext)/3, 2*len(plaintext)/3
		if err := writeBy(w, plaintext[:a], next); err != nil {
			return nil, err
		}
		if n, err := w.ReadFrom(bytes.NewReader(plaintext[a:b])); checkCount(n, b-a, err) != nil {
			return nil, checkCount(n, b-a, err)
		}
		if err := writeBy(w, plaintext[b:], next); err != nil {
			return nil, err
		}
		err = w.Close()
		return out.Bytes(), err
	}},
}

var openWays = []way{
	{"OpenReader.Read", func(c frame.Config, src io.Reader, next sizes) ([]byte, error) {
		return readBy(frame.NewOpenReader(src, c), next)
	}},
	{"OpenReader.WriteTo", func(c frame.Config, src io.Reader, _ sizes) ([]byte, error) {
		var out bytes.Buffer
		n, err := frame.NewOpenReader(src, c).WriteTo(onlyWriter{&out})
		return out.Bytes(), checkCount(n, out.Len(), err)
	}},
	{"OpenReader.Read then WriteTo", func(c frame.Config, src io.Reader, next sizes) ([]byte, error) {
		r := frame.NewOpenReader(src, c)
		first := make([]byte, next())
		n, err := r.Read(first)
		if err == io.EOF {
			return first[:n], nil
		}
		if err != nil {
			return first[:n], err
		}
		out := bytes.NewBuffer(first[:n])
		_, err = r.WriteTo(out)
		return out.Bytes(), err
	}},
	{"OpenWriter.ReadFrom", func(c frame.Config, src io.Reader, _ sizes) ([]byte, error) {
		var out bytes.Buffer
		w := frame.NewOpenWriter(onlyWriter{&out}, c)
		if _, err := w.ReadFrom(src); err != nil {
			return out.Bytes(), err
		}
		err := w.Close()
		return out.Bytes(), err
	}},
	{"OpenWriter.Write", func(c frame.Config, src io.Reader, next sizes) ([]byte, error) {
		var out bytes.Buffer
		w := frame.NewOpenWriter(&out, c)
		sealed, err := io.ReadAll(src)
		if err == nil {
			err = writeBy(w, sealed, next)
		}
		if err == nil {
			err = w.Close()
		}
		return out.Bytes(), err
	}},
}

func checkCount(n int64, want int, err error) error {
	if err == nil && n != int64(want) {
		return io.ErrShortBuffer
	}
	return err
}

func requireSame(t require.TestingT, got []byte, err error, want []byte, name string) {
	require.NoError(t, err, name)
	require.True(t, bytes.Equal(want, got), "%s: %d bytes that are not the %d bytes wanted", name, len(got), len(want))
}

// Pull ways have a source that can only be read. Each is added a second time with its source as it
// is, which may be in memory.
func init() {
	for _, ways := range []*[]way{&sealWays, &openWays} {
		for i, w := range *ways {
			if strings.Contains(w.name, "Reader.") {
				(*ways)[i].run = func(c frame.Config, src io.Reader, next sizes) ([]byte, error) {
					return w.run(c, onlyReader{src}, next)
				}
				*ways = append(*ways, way{w.name + " of the source itself", w.run})
			}
		}
	}
}
