package verbs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/cmd/pikokms/internal/work"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/s3ec"
)

// move returns an object of AWS's S3 Encryption Client encrypted under the new keys, with the pairs
// of its encryption context.
func (m *rewrapper) move(ctx context.Context, s *places.Source) (io.Reader, error) {
	content, err := m.decrypt(ctx, s)
	if err != nil {
		return nil, err
	}
	moved := content.(*s3ec.Moved) // the source is that client's
	sealed, err := m.objects.EncryptObject(ctx, "", moved.Content, moved.Content.Header.Context)
	if err != nil {
		return nil, err
	}
	return &s3ec.Moved{Reader: sealed, Content: moved.Content}, nil
}

// settle removes the instruction file of an object that was moved by a process that was killed
// before it removed the file. It returns why the file is left alone, or that it was removed. First
// it verifies the object to its end, and it removes the file only if the client has not put another
// one meanwhile.
func (m *rewrapper) settle(ctx context.Context, i work.Item, instruction *places.Source, dryRun bool) (err error) {
	object, ok := i.BesideInstruction()
	if !ok {
		return work.Skipped(s3ec.ErrInstruction.Error())
	}
	s, err := object.Read(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return work.Skipped("it is an instruction file of AWS's S3 Encryption Client, and its object is gone")
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	start, err := s.Start()
	switch {
	case err != nil:
		return err
	case s.Client.Header != nil || !header.Sniff(start):
		return work.Skipped("it is an instruction file of AWS's S3 Encryption Client, and goes with its object")
	case dryRun:
		return nil
	}
	verifier := m.decrypter
	verifier.Keyrings = append(keys.Keyrings(m.keys), m.decrypter.Keyrings...)
	content, err := verifier.NewReader(ctx, s, nil)
	if err == nil {
		_, err = io.Copy(io.Discard, content)
	}
	if err != nil {
		return fmt.Errorf("its object was moved, and can't be verified, so it stays: %w", err)
	}
	if err := instruction.Remove(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return work.Skipped("its object was moved and is verified, so it was removed")
}
