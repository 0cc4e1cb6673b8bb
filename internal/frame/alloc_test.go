package frame_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/frame"
)

func TestNoAllocationPerFrame(t *testing.T) {
	c := config(256)
	p := make([]byte, 4096)
	drain := func(r io.Reader) error {
		for {
			if _, err := r.Read(p); err != nil {
				return err
			}
		}
	}
	ways := map[string]func(plaintext, sealed []byte) error{
		"SealReader.Read": func(plaintext, _ []byte) error {
			return drain(frame.NewSealReader(bytes.NewReader(plaintext), c))
		},
		"SealReader.WriteTo": func(plaintext, _ []byte) error {
			_, err := frame.NewSealReader(bytes.NewReader(plaintext), c).WriteTo(io.Discard)
			return err
		},
		"SealWriter.Write": func(plaintext, _ []byte) error {
			w := frame.NewSealWriter(io.Discard, c)
			if err := writeBy(w, plaintext, always(100)); err != nil {
				return err
			}
			return w.Close()
		},
		"SealWriter.ReadFrom": func(plaintext, _ []byte) error {
			w := frame.NewSealWriter(io.Discard, c)
			if _, err := w.ReadFrom(bytes.NewReader(plaintext)); err != nil {
				return err
			}
			return w.Close()
		},
		"OpenReader.Read": func(_, sealed []byte) error {
			return drain(frame.NewOpenReader(bytes.NewReader(sealed), c))
		},
		"OpenReader.WriteTo": func(_, sealed []byte) error {
			_, err := frame.NewOpenReader(bytes.NewReader(sealed), c).WriteTo(io.Discard)
			return err
		},
		"OpenWriter": func(_, sealed []byte) error {
			w := frame.NewOpenWriter(io.Discard, c)
			if err := writeBy(w, sealed, always(100)); err != nil {
				return err
			}
			return w.Close()
		},
	}
	for name, run := range ways {
		t.Run(name, func(t *testing.T) {
			allocations := func(frames int) float64 {
				plaintext := pattern(frames * c.Length)
				sealed := body(c, plaintext)
				return testing.AllocsPerRun(20, func() {
					if err := run(plaintext, sealed); err != nil && err != io.EOF {
						t.Fatal(err)
					}
				})
			}
			few, many := allocations(10), allocations(1000)
			t.Logf("%v allocations for 10 frames, %v for 1000", few, many)
			require.Equal(t, few, many)
			require.LessOrEqual(t, many, 10.0)
		})
	}
}
