package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

const (
	mostOneFrame     = 64 << 10  // bytes
	mostCached       = 1 << 20   // bytes; in larger objects the cost of a data key does not show
	mostWholeMessage = 256 << 20 // bytes
)

// subject encrypts the workspace's plaintext to stored bytes and decrypts these again.
type subject struct {
	name, note       string
	parallelism      int
	encrypt, decrypt operation

	alone bool // the cipher alone, whose output is never copied
	peer  bool // another library

	most int    // bytes of an object; 0 is any size
	why  string // why larger ones are left out, for a message to the user
}

// measureStreams measures encrypting and decrypting in memory.
func measureStreams(o *options, stderr io.Writer) ([]result, error) {
	subjects, err := newSubjects(o.parallelism)
	if err != nil {
		return nil, err
	}
	return measureAll(o, subjects, [2]string{"encrypt", "decrypt"}, stderr)
}

// stream encrypts, or decrypts, src to dst.
type stream func(dst io.Writer, src io.Reader) error

func streaming(name, note string, encrypt, decrypt stream) subject {
	pass := func(do stream) operation {
		return repeat(func(w *workspace) error { return do(w.destination, w.source) })
	}
	return subject{name: name, note: note, encrypt: pass(encrypt), decrypt: pass(decrypt)}
}

// wholeMessages is a subject that needs its source in memory as a whole. It takes the source's
// memory, or reads the source to its end.
func wholeMessages(name, note string, encrypt, decrypt func(in []byte) ([]byte, error)) subject {
	whole := func(do func(in []byte) ([]byte, error)) operation {
		return repeat(func(w *workspace) (err error) {
			in := w.in
			if w.copies {
				if in, err = io.ReadAll(w.source); err != nil {
					return err
				}
			}
			out, err := do(in)
			if err != nil {
				return err
			}
			_, err = w.destination.Write(out)
			return err
		})
	}
	return subject{
		name: name, note: note, encrypt: whole(encrypt), decrypt: whole(decrypt),
		most: mostWholeMessage, why: "it holds whole messages in memory",
	}
}

// newSubjects returns the base of all ratios first, on one core, and then the other subjects for
// each parallelism.
func newSubjects(parallelism []int) ([]subject, error) {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	base, err := newRaw(key)
	if err != nil {
		return nil, err
	}
	inPlace, err := newRaw(key)
	if err != nil {
		return nil, err
	}
	inPlace.inPlace = true
	subjects := []subject{
		{name: "raw", parallelism: 1, encrypt: base.encrypt, decrypt: base.decrypt, alone: true},
		{name: "raw-in-place", parallelism: 1, encrypt: inPlace.encrypt, decrypt: inPlace.decrypt, alone: true},
	}
	for _, p := range parallelism {
		streams, err := newStreams(key, p)
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, streams...)
	}
	return subjects, nil
}

// newStreams returns the subjects that are measured with a parallelism.
func newStreams(key []byte, parallelism int) ([]subject, error) {
	keyring, err := local.NewProvider(local.Config{Key: bytes.Clone(key)})
	if err != nil {
		return nil, err
	}
	caching := service.New(keyring, service.Config{Cache: &service.CacheLimits{}})
	encrypter := func(k provider.Keyring) *message.Encrypter { return &message.Encrypter{Keyring: k} }
	decrypter := func(k provider.Keyring) *message.Decrypter {
		return &message.Decrypter{Keyrings: []provider.Unwrapper{k}}
	}

	minimum, err := newFloor(key, keyring)
	if err != nil {
		return nil, err
	}
	plain, err := newRaw(key)
	if err != nil {
		return nil, err
	}
	cached := push("pikokms-cached", encrypter(caching), decrypter(caching))
	cached.most = mostCached
	subjects := []subject{
		{name: "floor", encrypt: repeat(minimum.encrypt), decrypt: repeat(minimum.decrypt), alone: true, most: mostOneFrame},
		streaming("raw-stream", "", plain.encryptStream, plain.decryptStream),
		push("pikokms", encrypter(keyring), decrypter(keyring)),
		pull("pikokms-pull", encrypter(keyring), decrypter(keyring)),
		cached,
	}
	public, err := newPublicKeys()
	if err != nil {
		return nil, err
	}
	subjects = append(subjects, public...)
	peers, err := newPeers(key)
	if err != nil {
		return nil, err
	}
	subjects = append(subjects, peers...)
	for i := range subjects {
		subjects[i].parallelism = parallelism
	}
	return subjects, nil
}

func push(name string, encrypter *message.Encrypter, decrypter *message.Decrypter) subject {
	buf := make([]byte, copyBuffer)
	return streaming(name, "",
		func(dst io.Writer, src io.Reader) error {
			w, err := encrypter.NewWriter(context.Background(), dst, nil)
			if err != nil {
				return err
			}
			return copyAndClose(w, src, buf)
		},
		func(dst io.Writer, src io.Reader) error {
			return copyAndClose(decrypter.NewWriter(context.Background(), dst, nil), src, buf)
		})
}

func pull(name string, encrypter *message.Encrypter, decrypter *message.Decrypter) subject {
	return streaming(name, "",
		func(dst io.Writer, src io.Reader) error {
			r, err := encrypter.NewReader(context.Background(), src, nil)
			if err != nil {
				return err
			}
			_, err = io.Copy(dst, r)
			return err
		},
		func(dst io.Writer, src io.Reader) error {
			r, err := decrypter.NewReader(context.Background(), src, nil)
			if err != nil {
				return err
			}
			_, err = io.Copy(dst, r)
			return err
		})
}

// copyBuffer is the size in bytes of the buffer of a copy where neither side can do without one. It
// holds a package of sio, and a little more than a chunk of age; both are slower with the 32 KiB of
// io.Copy. The buffer is made once, as in a program that cares for speed.
const copyBuffer = 64<<10 + 32

// copyAndClose does not close w after an error, since closing would complete a message whose
// plaintext is not complete.
func copyAndClose(w io.WriteCloser, src io.Reader, buf []byte) error {
	if _, err := io.CopyBuffer(w, src, buf); err != nil {
		return err
	}
	return w.Close()
}
