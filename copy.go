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
// for a storage that the caller drives, and for hosts that BindsNames. Others may copy what is
// stored as it is.
//
// It refuses what is not a stored object of a host, whatever New's options allow to be read. A copy
// of that would be authentic, though nobody knows who made it. The object is complete only when it
// is read to io.EOF. After an error, or if reading stops before, the storage must keep what it has.
// The errors are Get's and Put's.
func (h *Host) CopyObject(ctx context.Context, to, from string, stored io.Reader) (*message.EncryptReader, error) {
	whole, err := sniffObject(stored)
	if err != nil {
		return nil, err
	}
	strict := h.decrypter
	strict.Accept = acceptObject
	content, err := strict.NewReader(ctx, whole, h.bound(from))
	if err != nil {
		return nil, nameOptions(err)
	}
	pairs := maps.Clone(content.EncryptionContext())
	if _, err := recordedNames(pairs[ChainKey]); err != nil {
		return nil, err
	}
	delete(pairs, header.PublicKeyName)
	maps.Copy(pairs, h.bound(to))
	return h.encrypter.NewReader(ctx, content, pairs)
}
