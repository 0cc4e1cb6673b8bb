package adversary_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/pikokms"
	"piko.sh/pikokms/compress"
	"piko.sh/pikokms/folderstorage"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// TestAFaultAtEachCallOfAMessage breaks each call of the source, of the destination and of the key
// in its turn, for every way into a message and out of it.
func TestAFaultAtEachCallOfAMessage(t *testing.T) {
	race.SkipShort(t)
	before := goleak.IgnoreCurrent()
	key, second := newKey(t, 1, ""), newKey(t, 2, "second")
	faults, doors := 0, 0
	sizes := []int{0, 1, 200, 1_500_000}
	if race.Enabled || testing.Short() {
		sizes[3] = 1_100_000
	}
	for _, size := range sizes {
		length := frameLength
		if size > 1<<20 {
			length = 0 // the default, in which it takes several cores
		}
		plaintext := pattern(3, size)
		encrypter := func(c *adversary.Calls) *message.Encrypter {
			return &message.Encrypter{Keyring: c.Keys(key), Recipients: []provider.Wrapper{c.Keys(second)}, FrameLength: length}
		}
		sealed, err := encrypter(&adversary.Calls{}).Encrypt(t.Context(), plaintext, nil)
		require.NoError(t, err)
		source := func(c *adversary.Calls, b []byte) io.Reader {
			return c.Reader(struct{ io.Reader }{bytes.NewReader(b)})
		}
		for _, short := range []bool{false, true} {
			if short && size > 1000 && race.Enabled {
				continue
			}
			into := map[string]func(c *adversary.Calls, out io.Writer) error{
				"EncryptReader": func(c *adversary.Calls, out io.Writer) error {
					r, err := encrypter(c).NewReader(t.Context(), source(c, plaintext), nil)
					if err == nil {
						_, err = io.Copy(c.Writer(out, short), struct{ io.Reader }{r})
					}
					return err
				},
				"EncryptReader.WriteTo": func(c *adversary.Calls, out io.Writer) error {
					r, err := encrypter(c).NewReader(t.Context(), source(c, plaintext), nil)
					if err == nil {
						_, err = r.WriteTo(c.Writer(out, short))
					}
					return err
				},
				"EncryptWriter": func(c *adversary.Calls, out io.Writer) error {
					w, err := encrypter(c).NewWriter(t.Context(), c.Writer(out, short), nil)
					if err != nil {
						return err
					}
					defer w.Abort()
					if _, err := io.Copy(w, source(c, plaintext)); err != nil {
						return err
					}
					return w.Close()
				},
			}
			for name, way := range into {
				n := adversary.EachCall(func(c *adversary.Calls) {
					var out bytes.Buffer
					err := way(c, &out)
					got, _, openErr := (&message.Decrypter{Keyrings: []provider.Unwrapper{key}}).Decrypt(t.Context(), out.Bytes(), nil)
					if !c.Failed() {
						require.NoError(t, errors.Join(err, openErr), name)
						require.True(t, bytes.Equal(plaintext, got))
						return
					}
					requireFault(t, err, short, name)
					require.Error(t, openErr, "%s: what is left of %d bytes passes for whole", name, size)
				})
				require.Greater(t, n, 3, name)
				faults += n
				doors++
			}
			decrypter := func(c *adversary.Calls) *message.Decrypter {
				return &message.Decrypter{Keyrings: []provider.Unwrapper{c.Keys(key)}}
			}
			outOf := map[string]func(c *adversary.Calls, out io.Writer) error{
				"DecryptReader": func(c *adversary.Calls, out io.Writer) error {
					r, err := decrypter(c).NewReader(t.Context(), source(c, sealed), nil)
					if err == nil {
						_, err = io.Copy(c.Writer(out, short), struct{ io.Reader }{r})
					}
					return err
				},
				"DecryptReader.WriteTo": func(c *adversary.Calls, out io.Writer) error {
					r, err := decrypter(c).NewReader(t.Context(), source(c, sealed), nil)
					if err == nil {
						_, err = r.WriteTo(c.Writer(out, short))
					}
					return err
				},
				"DecryptWriter": func(c *adversary.Calls, out io.Writer) error {
					w := decrypter(c).NewWriter(t.Context(), c.Writer(out, short), nil)
					if _, err := io.Copy(w, source(c, sealed)); err != nil {
						_ = w.Close() // returns the same error
						return err
					}
					return w.Close()
				},
				"DecryptReaderAt": func(c *adversary.Calls, out io.Writer) error {
					r, err := decrypter(c).Open(t.Context(), c.ReaderAt(bytes.NewReader(sealed)), int64(len(sealed)), nil)
					if err == nil {
						_, err = io.Copy(c.Writer(out, short), struct{ io.Reader }{r})
					}
					return err
				},
				"Rewrap": func(c *adversary.Calls, out io.Writer) error {
					r, err := message.Rewrap(t.Context(), source(c, sealed), decrypter(c), encrypter(c), nil)
					if err != nil {
						return err
					}
					_, err = io.Copy(c.Writer(io.Discard, short), r)
					if err == nil {
						_, err = out.Write(plaintext)
					}
					return err
				},
			}
			for name, way := range outOf {
				n := adversary.EachCall(func(c *adversary.Calls) {
					var out bytes.Buffer
					err := way(c, &out)
					require.True(t, bytes.HasPrefix(plaintext, out.Bytes()), name)
					if !c.Failed() {
						require.NoError(t, err, name)
						require.Len(t, out.Bytes(), size, name)
						return
					}
					requireFault(t, err, short, name)
				})
				require.Greater(t, n, 2, name)
				faults += n
				doors++
			}
		}
	}
	t.Logf("%d faults, each an error, in %d ways into and out of messages of several sizes", faults, doors)
	goleak.VerifyNone(t, before)
}

// requireFault wants the fault in the error, or what a short write is called.
func requireFault(t *testing.T, err error, short bool, what string) {
	t.Helper()
	if short && errors.Is(err, io.ErrShortWrite) {
		return
	}
	require.ErrorIs(t, err, adversary.ErrFault, what)
	require.NotErrorIs(t, err, provider.ErrInvalidCiphertext, "%s: a fault is taken for a broken message", what)
}

// hostDoors are the ways into and out of a host. They act on "object", which is under the key that
// is not the default, and return what was released.
var hostDoors = map[string]func(ctx context.Context, h *pikokms.Host, source func([]byte) io.Reader) ([]byte, error){
	"Put": func(ctx context.Context, h *pikokms.Host, source func([]byte) io.Reader) ([]byte, error) {
		return nil, h.Put(ctx, "object", source(hostContent))
	},
	"Get": func(ctx context.Context, h *pikokms.Host, _ func([]byte) io.Reader) ([]byte, error) {
		r, err := h.Get(ctx, "object")
		if err != nil {
			return nil, err
		}
		got, err := io.ReadAll(r)
		return got, errors.Join(err, r.Close())
	},
	"Get and copy": func(ctx context.Context, h *pikokms.Host, _ func([]byte) io.Reader) ([]byte, error) {
		r, err := h.Get(ctx, "object")
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		_, err = io.Copy(&out, r)
		return out.Bytes(), errors.Join(err, r.Close())
	},
	"Open": func(ctx context.Context, h *pikokms.Host, _ func([]byte) io.Reader) ([]byte, error) {
		o, err := h.Open(ctx, "object")
		if err != nil {
			return nil, err
		}
		got, err := io.ReadAll(o)
		return got, errors.Join(err, o.Close())
	},
	"FS": func(ctx context.Context, h *pikokms.Host, _ func([]byte) io.Reader) ([]byte, error) {
		return fs.ReadFile(h.FS(ctx), "object")
	},
	"EncryptObject": func(ctx context.Context, h *pikokms.Host, source func([]byte) io.Reader) ([]byte, error) {
		r, err := h.EncryptObject(ctx, "object", source(hostContent), nil)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		return nil, err
	},
	"Rewrap": func(ctx context.Context, h *pikokms.Host, _ func([]byte) io.Reader) ([]byte, error) {
		return nil, h.Rewrap(ctx, "object")
	},
	"Delete": func(ctx context.Context, h *pikokms.Host, _ func([]byte) io.Reader) ([]byte, error) {
		return nil, h.Delete(ctx, "object")
	},
	"List": func(ctx context.Context, h *pikokms.Host, _ func([]byte) io.Reader) ([]byte, error) {
		for _, err := range h.List(ctx, "") {
			if err != nil {
				return nil, err
			}
		}
		return nil, nil
	},
	"strings": func(ctx context.Context, h *pikokms.Host, _ func([]byte) io.Reader) ([]byte, error) {
		texts, err := h.CryptoService().EncryptBatch(ctx, []string{"one", "two"}, nil)
		if err != nil {
			return nil, err
		}
		got, err := h.Decrypt(ctx, texts[0], nil)
		if err == nil && got != "one" {
			err = errors.New("another string came out")
		}
		return nil, err
	},
}

var hostContent = pattern(5, 300_000)

// TestAFaultAtEachCallOfAHost breaks each call of the source, of the storage and of the key in its
// turn. The object that was there is there afterwards, or the whole new one.
func TestAFaultAtEachCallOfAHost(t *testing.T) {
	race.SkipShort(t)
	before := goleak.IgnoreCurrent()
	first, second := newKey(t, 1, "first"), newKey(t, 2, "second")
	faults := 0
	formats := []string{"", compress.ZstdSeekable, compress.S2}
	if race.Enabled || testing.Short() {
		formats = formats[:2]
	}
	for _, format := range formats {
		for kind, newStorage := range map[string]func() (adversary.FullStorage, func() []string){
			"memory": func() (adversary.FullStorage, func() []string) {
				return adversary.NewMemory(), func() []string { return nil }
			},
			"folder": func() (adversary.FullStorage, func() []string) {
				dir := t.TempDir()
				folder, err := folderstorage.New(dir)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, folder.Close()) })
				return folder, func() []string { return filesOf(t, dir) }
			},
		} {
			options := func(c *adversary.Calls, storage pikokms.Storage, current string) []pikokms.Option {
				all := []pikokms.Option{
					pikokms.WithStorage(storage), pikokms.WithDefaultCryptoProvider(current), pikokms.BindObjectName("b"),
					pikokms.WithCryptoProvider("first", c.Keys(first)), pikokms.WithCryptoProvider("second", c.Keys(second)),
				}
				if format != "" {
					all = append(all, pikokms.WithEnabledTransformers(format))
				}
				return all
			}
			for name, door := range hostDoors {
				if (name == "Open" || name == "FS") && format == compress.S2 {
					continue // no random access
				}
				n := adversary.EachCall(func(c *adversary.Calls) {
					storage, files := newStorage()
					none := &adversary.Calls{}
					old, err := pikokms.New(options(none, storage, "first")...)
					require.NoError(t, err)
					require.NoError(t, old.Put(t.Context(), "object", bytes.NewReader(hostContent)))

					h, err := pikokms.New(options(c, c.Storage(storage), "second")...)
					require.NoError(t, err)
					got, err := door(t.Context(), h, func(b []byte) io.Reader { return c.Reader(bytes.NewReader(b)) })
					require.NoError(t, h.Close())
					require.True(t, bytes.HasPrefix(hostContent, got), "%s: bytes were released that nobody put", name)
					if c.Failed() {
						require.ErrorIs(t, err, adversary.ErrFault, "%s, call %d, %s, %s", name, c.Made(), format, kind)
					} else {
						require.NoError(t, err, name)
						if name == "Delete" {
							return
						}
					}
					r, err := old.Get(t.Context(), "object")
					require.NoError(t, err)
					stays, err := io.ReadAll(r)
					require.NoError(t, errors.Join(err, r.Close()))
					require.True(t, bytes.Equal(hostContent, stays))
					if kind == "folder" {
						require.Equal(t, []string{"object"}, files(), "%s leaves something behind", name)
					}
				})
				require.NotZero(t, n, name)
				faults += n
			}
		}
	}
	t.Logf("%d faults, each an error, in %d ways into and out of a host", faults, len(hostDoors))
	goleak.VerifyNone(t, before)
}

func filesOf(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && path != dir {
			names = append(names, entry.Name())
		}
		return err
	}))
	return names
}

// TestAFaultAtEachCallOfKMS breaks each call of AWS KMS in its turn, in each way in which it can
// fail: once, and from then on.
func TestAFaultAtEachCallOfKMS(t *testing.T) {
	race.SkipShort(t)
	before := goleak.IgnoreCurrent()
	actions := map[string]kmstest.Action{
		"internal error":    kmstest.Error("KMSInternalException", "out of order"),
		"throttled":         kmstest.Throttle(),
		"denied":            kmstest.Deny(),
		"disabled":          kmstest.Error("DisabledException", "disabled"),
		"dropped":           kmstest.Drop(),
		"cut":               kmstest.Truncate(),
		"half, then silent": kmstest.HalfOpen(),
		"silent":            kmstest.Stall(),
		"a proxy's page":    kmstest.Body(http.StatusBadGateway, "text/html", "<html>bad gateway</html>"),
		"a portal's page":   kmstest.Body(http.StatusOK, "text/html", "<html>log in</html>"),
		"no JSON":           kmstest.Body(http.StatusOK, "application/x-amz-json-1.1", "{"),
		"empty JSON":        kmstest.Body(http.StatusOK, "application/x-amz-json-1.1", "{}"),
		"a wrong data key": kmstest.Answer(func(members map[string]any) {
			if _, ok := members["Plaintext"]; ok {
				members["Plaintext"] = bytes.Repeat([]byte{9}, 32)
			}
		}),
		"another key's name": kmstest.Answer(func(members map[string]any) { members["KeyId"] = adversary.ForeignARN }),
	}
	cases, refused := 0, 0
	server := kmstest.NewServer(t)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	providers := make([]provider.EncryptionProvider, 2)
	for i := range providers {
		key := server.CreateKey(kmstest.Key{})
		client := kms.New(kms.Options{
			Region: key.Region, BaseEndpoint: aws.String(server.URL), Retryer: aws.NopRetryer{}, Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
			HTTPClient: &http.Client{Transport: transport},
		})
		p, err := awskms.NewProvider(t.Context(), awskms.Config{KeyID: key.ARN, Client: client})
		require.NoError(t, err)
		providers[i] = p
	}
	hostOn := func(storage pikokms.Storage, current string) *pikokms.Host {
		h, err := pikokms.New(pikokms.WithStorage(storage), pikokms.WithDefaultCryptoProvider(current),
			pikokms.WithCryptoProvider("first", providers[0]), pikokms.WithCryptoProvider("second", providers[1]))
		require.NoError(t, err)
		return h
	}
	for name, door := range hostDoors {
		for fault, action := range actions {
			for _, times := range []int{1, 0} {
				for k := 0; ; k++ {
					memory := adversary.NewMemory()
					old := hostOn(memory, "first")
					require.NoError(t, old.Put(t.Context(), "object", bytes.NewReader(hostContent)))
					server.Reset()
					ctx, cancel := context.WithCancel(t.Context())
					calls := 0
					remove := server.Inject(kmstest.Fault{Do: action, After: k, Times: times, When: func(kmstest.Request) bool {
						if calls++; calls > k && strings.Contains(fault, "silent") {
							time.AfterFunc(15*time.Millisecond, cancel) // the caller gives up
						}
						return true
					}})
					h := hostOn(memory, "second")
					got, err := door(ctx, h, func(b []byte) io.Reader { return bytes.NewReader(b) })
					cancel()
					remove()
					require.NoError(t, h.Close())
					faulted := server.Calls("") > k
					require.True(t, bytes.HasPrefix(hostContent, got))
					what := fmt.Sprintf("%s, %s at call %d, %d times", name, fault, k+1, times)
					if faulted && fault == "a wrong data key" && err == nil {
						// An answer with another data key makes an object that does not open. Only who
						// has the key can tell.
						require.Contains(t, []string{"Put", "EncryptObject", "Rewrap", "strings"}, name, what)
					} else if faulted {
						require.Error(t, err, what)
						refused++
					} else {
						require.NoError(t, err, what)
					}
					if err != nil {
						r, err := old.Get(t.Context(), "object")
						require.NoError(t, err, what)
						stays, err := io.ReadAll(r)
						require.NoError(t, errors.Join(err, r.Close()))
						require.True(t, bytes.Equal(hostContent, stays), what)
					}
					if !faulted {
						break
					}
					cases++
				}
			}
		}
	}
	t.Logf("%d faults of KMS, %d errors", cases, refused)
	transport.CloseIdleConnections()
	server.Close()
	goleak.VerifyNone(t, before)
}
