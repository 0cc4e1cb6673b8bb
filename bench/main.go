// Command bench measures pikokms beside raw AES-GCM and other streaming encryption, on the same bytes in one run.
//
//	go run ./bench [-size BYTES] [-repeats N]
//
// Repeats are interleaved, so that whatever else the machine does falls on all alike; the table gives medians.
package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"filippo.io/age"
	"github.com/minio/sio"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// subject encrypts src to dst and decrypts it again, as streams.
type subject struct {
	name    string
	encrypt func(dst io.Writer, src io.Reader) error
	decrypt func(dst io.Writer, src io.Reader) error
}

func main() {
	size := flag.Int("size", 64<<20, "plaintext `bytes`")
	repeats := flag.Int("repeats", 9, "measurements of each, of which the median counts")
	flag.Parse()
	if flag.NArg() > 0 || *size < 1 || *repeats < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*size, *repeats, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(size, repeats int, out io.Writer) error {
	plaintext := make([]byte, size)
	_, _ = rand.Read(plaintext) // never fails
	subjects, err := newSubjects()
	if err != nil {
		return err
	}
	encrypting, decrypting := make([][]time.Duration, len(subjects)), make([][]time.Duration, len(subjects))
	stored, opened := bytes.NewBuffer(make([]byte, 0, size+size/8+1<<16)), bytes.NewBuffer(make([]byte, 0, size+1<<16))
	for repeat := range repeats + 1 {
		for i, s := range subjects {
			stored.Reset()
			opened.Reset()
			start := time.Now()
			if err := s.encrypt(plainWriter{stored}, plainReader{bytes.NewReader(plaintext)}); err != nil {
				return fmt.Errorf("%s: encrypting: %w", s.name, err)
			}
			sealed := time.Now()
			if err := s.decrypt(plainWriter{opened}, plainReader{bytes.NewReader(stored.Bytes())}); err != nil {
				return fmt.Errorf("%s: decrypting: %w", s.name, err)
			}
			end := time.Now()
			if !bytes.Equal(opened.Bytes(), plaintext) {
				return fmt.Errorf("%s: the plaintext came back changed", s.name)
			}
			if repeat > 0 { // the first round warms up
				encrypting[i] = append(encrypting[i], sealed.Sub(start))
				decrypting[i] = append(decrypting[i], end.Sub(sealed))
			}
		}
	}

	fmt.Fprintf(out, "%d MiB in memory, median of %d, %s/%s, GOMAXPROCS %d\n\n", size>>20, repeats, runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0))
	fmt.Fprintf(out, "| | encrypt MB/s | to raw | decrypt MB/s | to raw |\n|---|---:|---:|---:|---:|\n")
	for i, s := range subjects {
		e, d := median(encrypting[i]), median(decrypting[i])
		fmt.Fprintf(out, "| %s | %.0f | %.2f | %.0f | %.2f |\n", s.name,
			speed(size, e), median(encrypting[0]).Seconds()/e.Seconds(), speed(size, d), median(decrypting[0]).Seconds()/d.Seconds())
	}
	return nil
}

func median(d []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(d))[len(d)/2]
}

func speed(size int, d time.Duration) float64 { return float64(size) / 1e6 / d.Seconds() }

// plainReader and plainWriter have no WriteTo and no ReadFrom: a file or a connection has none that helps either.
type plainReader struct{ io.Reader }
type plainWriter struct{ io.Writer }

func newSubjects() ([]subject, error) {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	keyring, err := local.NewProvider(local.Config{Key: bytes.Clone(key)})
	if err != nil {
		return nil, err
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	encrypter := message.Encrypter{Keyring: keyring}
	decrypter := message.Decrypter{Keyrings: []provider.Keyring{keyring}}
	return []subject{
		{"raw AES-256-GCM, 64 KiB blocks",
			func(dst io.Writer, src io.Reader) error { return blocks(dst, src, 64<<10, aead.Seal) },
			func(dst io.Writer, src io.Reader) error {
				return blocks(dst, src, 64<<10+aead.Overhead(), func(out, nonce, text, additional []byte) []byte {
					opened, err := aead.Open(out, nonce, text, additional)
					if err != nil {
						panic(err) // the same key and bytes a moment ago
					}
					return opened
				})
			}},
		{"pikokms",
			func(dst io.Writer, src io.Reader) error {
				r, err := encrypter.NewReader(ctx, src, nil)
				if err != nil {
					return err
				}
				_, err = io.Copy(dst, r)
				return err
			},
			func(dst io.Writer, src io.Reader) error {
				r, err := decrypter.NewReader(ctx, src, nil)
				if err != nil {
					return err
				}
				_, err = io.Copy(dst, r)
				return err
			}},
		{"minio/sio",
			func(dst io.Writer, src io.Reader) error {
				_, err := sio.Encrypt(dst, src, sio.Config{Key: key, CipherSuites: []byte{sio.AES_256_GCM}})
				return err
			},
			func(dst io.Writer, src io.Reader) error {
				_, err := sio.Decrypt(dst, src, sio.Config{Key: key, CipherSuites: []byte{sio.AES_256_GCM}})
				return err
			}},
		{"age (ChaCha20-Poly1305)",
			func(dst io.Writer, src io.Reader) error {
				w, err := age.Encrypt(dst, identity.Recipient())
				if err != nil {
					return err
				}
				if _, err := io.Copy(w, src); err != nil {
					return err
				}
				return w.Close()
			},
			func(dst io.Writer, src io.Reader) error {
				r, err := age.Decrypt(src, identity)
				if err != nil {
					return err
				}
				_, err = io.Copy(dst, r)
				return err
			}},
	}, nil
}

// blocks is what a stream cannot do without: reading, one pass of the cipher over each block in place, writing.
func blocks(dst io.Writer, src io.Reader, size int, pass func(out, nonce, text, additional []byte) []byte) error {
	buf, nonce, additional := make([]byte, size, size+64), make([]byte, 12), make([]byte, 72)
	for number := uint32(1); ; number++ {
		n, err := io.ReadFull(src, buf[:size])
		if n > 0 {
			binary.BigEndian.PutUint32(nonce[8:], number)
			if _, err := dst.Write(pass(buf[:0], nonce, buf[:n], additional)); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
