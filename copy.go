package pikokms

import (
	"context"
	"io"
	"maps"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
)

// CopyObject returns what a storage would hold under the key to, if the object that is stored under
// the key from is copied there: the same content, encrypted anew and bound to its new name. It is
// for a storage that the caller drives, and needed only if BindsNames: otherwise a copy of the
// stored bytes will do.
//
// It refuses anything that is not a stored object of a host, whatever New's options allow: a copy
// would be authentic, though nobody knows who made the original. The object is complete only when
// it is read to io.EOF. After an error, or if reading stops before, the storage must keep what it
// has. The errors are Get's and Put's.
func (h *Host) CopyObject(ctx context.Context, to, from string, stored io.Reader) (*message.EncryptReader, error) {
	content, pairs, err := h.readStrictly(ctx, stored, h.bound(from))
	if err != nil {
		return nil, err
	}
	maps.Copy(pairs, h.bound(to))
	return h.encrypter.NewReader(ctx, content, pairs)
}

// readStrictly opens a stored object of a host, whatever New's options allow to be read. It returns
// the content below encryption, and the encryption context with which it can be encrypted anew.
func (h *Host) readStrictly(ctx context.Context, stored io.Reader, stated map[string]string) (io.Reader, map[string]string, error) {
	whole, err := sniffObject(stored)
	if err != nil {
		return nil, nil, err
	}
	strict := h.decrypter
	strict.Accept = acceptObject
	content, err := strict.NewReader(ctx, whole, stated)
	if err != nil {
		return nil, nil, h.nameOptions(err)
	}
	pairs := maps.Clone(content.EncryptionContext())
	if _, err := recordedNames(pairs[PairTransformers]); err != nil {
		return nil, nil, err
	}
	delete(pairs, header.PublicKeyName)
	return content, pairs, nil
}
