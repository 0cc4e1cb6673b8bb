package branchkey

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// The layout of a database's file, as of bbolt v1.4 (internal/common: page.go, meta.go, bucket.go).
// Numbers are in the byte order of the computer.
const (
	pageHeaderSize  = 16 // ID 8, flags 2, number of elements 2, pages that follow and belong to it 4
	pageElementSize = 16
	bucketSize      = 16 // root page 8, sequence 8

	branchPage, leafPage, freePage = 0x01, 0x02, 0x10

	leafIsBucket = 0x01

	metaMagic   = 0xED0CDAED
	metaSummed  = 56 // how many bytes of a meta, after the page's header, the checksum covers
	metaSize    = metaSummed + 8
	minPageSize = 1 << 10
	maxPageSize = 64 << 10
	noFreePage  = 1<<64 - 1 // the list of free pages is not stored
	manyFree    = 0xFFFF    // the number of free pages is in the first 8 bytes of the list
)

// pages checks the pages of a database before bbolt reads them. bbolt panics at a damaged page,
// perhaps in a goroutine of its own, and never returns from a circle of pages.
type pages struct {
	file *os.File
	size uint64          // of a page, in bytes
	end  uint64          // the number of the first page that is not used
	seen map[uint64]bool // pages that were reached, or listed as free
}

// checkInUse checks the pages that are in use, and returns the first page of the list of free ones.
func checkInUse(file *os.File) (p pages, free uint64, err error) {
	p = pages{file: file, seen: make(map[uint64]bool)}
	root, free, err := p.meta()
	if err != nil {
		return p, 0, err
	}
	return p, free, p.tree(root)
}

// checkPages returns what is wrong with the pages of a database.
func checkPages(file *os.File) error {
	p, free, err := checkInUse(file)
	if err != nil || free == noFreePage {
		return err
	}
	return p.free(free, func(uint64) error { return nil })
}

// eraseFree overwrites the free pages of a database with zeros, and everything after the last page,
// where a transaction that was killed may have written.
func eraseFree(file *os.File) error {
	p, free, err := checkInUse(file)
	if err != nil {
		return err
	}
	if free == noFreePage {
		return errors.New("the list of free pages is not stored")
	}
	zeros := make([]byte, p.size)
	erase := func(page uint64) error {
		_, err := file.WriteAt(zeros, int64(page*p.size))
		return err
	}
	if err := p.free(free, erase); err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	for page := p.end; page*p.size < uint64(info.Size()); page++ {
		if err := erase(page); err != nil {
			return err
		}
	}
	return nil
}

// meta returns the root page and the page of the free list, from the newer one of two metas.
func (p *pages) meta() (root, free uint64, err error) {
	found, last := false, uint64(0)
	for at := int64(0); at <= maxPageSize; at = max(2*at, minPageSize) {
		b := make([]byte, pageHeaderSize+metaSize)
		if _, err := p.file.ReadAt(b, at); err == io.EOF {
			break
		} else if err != nil {
			return 0, 0, err
		}
		b = b[pageHeaderSize:]
		sum := fnv.New64a()
		_, _ = sum.Write(b[:metaSummed]) // never fails
		size := uint64(binary.NativeEndian.Uint32(b[8:]))
		isMeta := binary.NativeEndian.Uint32(b) == metaMagic && binary.NativeEndian.Uint64(b[metaSummed:]) == sum.Sum64()
		if transaction := binary.NativeEndian.Uint64(b[48:]); isMeta && (at == 0 || uint64(at) == size) && (!found || transaction > last) {
			found, last, p.size = true, transaction, size
			root, free, p.end = binary.NativeEndian.Uint64(b[16:]), binary.NativeEndian.Uint64(b[32:]), binary.NativeEndian.Uint64(b[40:])
		}
	}
	if !found || p.size < minPageSize || p.size > maxPageSize {
		return 0, 0, errors.New("it has no valid meta page")
	}
	info, err := p.file.Stat()
	if err == nil && p.end > uint64(info.Size())/p.size {
		err = fmt.Errorf("it has %d bytes, and pages for more", info.Size())
	}
	return root, free, err
}

// read returns a page with those that belong to it.
func (p *pages) read(id uint64) ([]byte, error) {
	if id < 2 || id >= p.end {
		return nil, fmt.Errorf("there is no page %d", id)
	}
	b := make([]byte, p.size)
	if _, err := p.file.ReadAt(b, int64(id*p.size)); err != nil {
		return nil, err
	}
	more := uint64(binary.NativeEndian.Uint32(b[12:]))
	if binary.NativeEndian.Uint64(b) != id || more >= p.end-id {
		return nil, fmt.Errorf("page %d is another one", id)
	}
	for n := id; n <= id+more; n++ {
		if p.seen[n] {
			return nil, fmt.Errorf("two ways lead to page %d", n)
		}
		p.seen[n] = true
	}
	b = append(b, make([]byte, more*p.size)...)
	_, err := p.file.ReadAt(b[p.size:], int64((id+1)*p.size))
	if more == 0 {
		err = nil
	}
	return b, err
}

// tree checks a page and all below it.
func (p *pages) tree(id uint64) error {
	b, err := p.read(id)
	if err != nil {
		return err
	}
	if err := p.elements(b); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func (p *pages) elements(b []byte) error {
	flags, n := binary.NativeEndian.Uint16(b[8:]), int(binary.NativeEndian.Uint16(b[10:]))
	if flags != branchPage && flags != leafPage || flags == branchPage && n == 0 || pageHeaderSize+n*pageElementSize > len(b) {
		return fmt.Errorf("its kind is %#x, and it has %d elements", flags, n)
	}
	var previous []byte
	for i := range n {
		at := pageHeaderSize + i*pageElementSize
		e := b[at:]
		var offset, key, value uint64
		if flags == branchPage {
			offset, key = uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:]))
		} else {
			offset, key, value = uint64(binary.NativeEndian.Uint32(e[4:])), uint64(binary.NativeEndian.Uint32(e[8:])), uint64(binary.NativeEndian.Uint32(e[12:]))
		}
		if offset+key+value > uint64(len(e)) || offset < uint64((n-i)*pageElementSize) {
			return fmt.Errorf("its element %d is not in it", i)
		}
		name := e[offset : offset+key]
		if i > 0 && bytes.Compare(previous, name) >= 0 {
			return fmt.Errorf("its element %d is not in its order", i)
		}
		previous = name
		var err error
		switch {
		case flags == branchPage:
			err = p.tree(binary.NativeEndian.Uint64(e[8:]))
		case binary.NativeEndian.Uint32(e)&leafIsBucket != 0:
			err = p.bucket(e[offset+key : offset+key+value])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket checks a bucket, which is in a page of its own, or after its header if it is small.
func (p *pages) bucket(b []byte) error {
	if len(b) < bucketSize {
		return errors.New("a bucket is cut short")
	}
	if root := binary.NativeEndian.Uint64(b); root != 0 {
		return p.tree(root)
	}
	if b = b[bucketSize:]; len(b) < pageHeaderSize || binary.NativeEndian.Uint16(b[8:]) != leafPage {
		return errors.New("a small bucket is no page")
	}
	return p.elements(b)
}

// free checks the list of free pages, and calls take with each of them. A page in use must not be
// listed there, since bbolt would overwrite it.
func (p *pages) free(id uint64, take func(page uint64) error) error {
	b, err := p.read(id)
	if err != nil {
		return err
	}
	if flags := binary.NativeEndian.Uint16(b[8:]); flags != freePage {
		return fmt.Errorf("page %d is of kind %#x, and no list of free ones", id, flags)
	}
	list, n := b[pageHeaderSize:], uint64(binary.NativeEndian.Uint16(b[10:]))
	if n == manyFree {
		n, list = binary.NativeEndian.Uint64(list), list[8:]
	}
	if n > uint64(len(list))/8 {
		return fmt.Errorf("page %d lists more free ones than it can", id)
	}
	for i := range n {
		page := binary.NativeEndian.Uint64(list[8*i:])
		if page < 2 || page >= p.end || p.seen[page] {
			return fmt.Errorf("page %d is listed as free", page)
		}
		p.seen[page] = true
		if err := take(page); err != nil {
			return err
		}
	}
	return nil
}
