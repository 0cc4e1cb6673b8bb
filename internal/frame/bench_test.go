package frame_test

import (
	"bytes"
	"io"
	"testing"

	"piko.sh/pikokms/internal/frame"
)

// BenchmarkFrame measures each door of the package with 32 MiB, on one core and on all that are
// free, and with 16 KiB. Speeds are in bytes of plaintext.
func BenchmarkFrame(b *testing.B) {
	const large, small = 32 << 20, 16 << 10
	for cores, parallelism := range map[string]int{"one": 1, "all": 0} {
		for name, size := range map[string]int{"32M": large, "16K": small} {
			c := config(64 << 10)
			c.Parallelism = parallelism
			plaintext := pattern(size)
			sealed := body(c, plaintext)
			piece := make([]byte, 1<<20)
			doors := map[string]func() error{
				"SealReader.Read": func() error {
					_, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{frame.NewSealReader(onlyReader{bytes.NewReader(plaintext)}, c)}, piece)
					return err
				},
				"SealReader.WriteTo": func() error {
					_, err := frame.NewSealReader(onlyReader{bytes.NewReader(plaintext)}, c).WriteTo(io.Discard)
					return err
				},
				"SealWriter.Write": func() error {
					w := frame.NewSealWriter(io.Discard, c)
					if _, err := w.Write(plaintext); err != nil {
						return err
					}
					return w.Close()
				},
				"SealWriter.ReadFrom": func() error {
					w := frame.NewSealWriter(io.Discard, c)
					if _, err := w.ReadFrom(onlyReader{bytes.NewReader(plaintext)}); err != nil {
						return err
					}
					return w.Close()
				},
				"OpenReader.Read": func() error {
					_, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{frame.NewOpenReader(onlyReader{bytes.NewReader(sealed)}, c)}, piece)
					return err
				},
				"OpenReader.WriteTo": func() error {
					_, err := frame.NewOpenReader(onlyReader{bytes.NewReader(sealed)}, c).WriteTo(io.Discard)
					return err
				},
				"OpenWriter.Write": func() error {
					w := frame.NewOpenWriter(io.Discard, c)
					if _, err := w.Write(sealed); err != nil {
						return err
					}
					return w.Close()
				},
				"OpenWriter.ReadFrom": func() error {
					w := frame.NewOpenWriter(io.Discard, c)
					if _, err := w.ReadFrom(onlyReader{bytes.NewReader(sealed)}); err != nil {
						return err
					}
					return w.Close()
				},
			}
			for door, once := range doors {
				b.Run(name+"/"+door+"/"+cores, func(b *testing.B) {
					b.SetBytes(int64(size))
					b.ReportAllocs()
					for b.Loop() {
						if err := once(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
