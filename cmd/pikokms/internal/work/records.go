package work

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

func errJournalVersion(version int) error {
	return fmt.Errorf("its version is %d, and this command knows %d; the version of pikokms that began the job goes on with it, or name another file", version, journalVersion)
}

var errNoJournal = errors.New("it is no journal of pikokms; name a file that does not exist yet")

// errDamaged means that a journal is not what was written.
func errDamaged(what string) error {
	return fmt.Errorf("it is damaged: %s; name another file, and the job begins anew, or get it from a backup", what)
}

// A file of records begins with recordsMagic. Each record is the length of its content in 4 bytes,
// in big endian, a checksum of that, the content, and a checksum of the content. Both checksums
// also cover the record's number, so that no record can stand in another's place. The first byte of
// the content is the record's kind.
const recordsMagic = "pikokms journal\n"

const checksumSize = crc32.Size

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(number uint64, content []byte) uint32 {
	return crc32.Update(crc32.Checksum(binary.BigEndian.AppendUint64(nil, number), castagnoli), castagnoli, content)
}

// recordWriter appends records to a file.
type recordWriter struct {
	file    *os.File
	end     int64  // of what is written, in bytes
	number  uint64 // of the next record
	pending []byte
}

// begin begins a file.
func (w *recordWriter) begin() { w.pending = append(w.pending, recordsMagic...) }

// add adds a record, which the next write writes.
func (w *recordWriter) add(kind byte, content []byte) {
	length := binary.BigEndian.AppendUint32(nil, uint32(1+len(content)))
	w.pending = append(w.pending, length...)
	w.pending = binary.BigEndian.AppendUint32(w.pending, checksum(w.number, length))
	from := len(w.pending)
	w.pending = append(append(w.pending, kind), content...)
	w.pending = binary.BigEndian.AppendUint32(w.pending, checksum(w.number, w.pending[from:]))
	w.number++
}

// write writes what was added, and syncs the file.
func (w *recordWriter) write() error {
	if _, err := w.file.WriteAt(w.pending, w.end); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	w.end += int64(len(w.pending))
	w.pending = w.pending[:0]
	return nil
}

// recordsEnd is where the records of a file end.
type recordsEnd struct {
	offset int64
	number uint64 // of records
}

// readRecords calls take with each record of a file, and returns where they end. After that there
// may be a part of a record, if a process was killed or a computer went down while it was written.
func readRecords(file *os.File, take func(kind byte, content []byte) error) (end recordsEnd, err error) {
	info, err := file.Stat()
	if err != nil {
		return end, err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(file, 0, info.Size()), 1<<20)
	if start, err := r.Peek(len(recordsMagic)); string(start) != recordsMagic {
		if err != nil && err != io.EOF {
			return end, err
		}
		return end, notRecords(r)
	}
	end.offset, _ = io.CopyN(io.Discard, r, int64(len(recordsMagic))) // Peek has them
	var content []byte
	for {
		rest := info.Size() - end.offset
		if rest < 2*checksumSize {
			return end, nil
		}
		start, err := r.Peek(2 * checksumSize)
		if err != nil {
			return end, err
		}
		if checksum(end.number, start[:4]) != binary.BigEndian.Uint32(start[4:]) {
			// If a file grew just before the computer went down, its end may be zeros.
			zeros, err := isZeros(r)
			if err == nil && !zeros {
				err = errDamaged(fmt.Sprintf("at byte %d no record begins", end.offset))
			}
			return end, err
		}
		length := int64(binary.BigEndian.Uint32(start))
		whole := 2*checksumSize + length + checksumSize
		if length == 0 || whole > rest {
			return end, nil
		}
		_, _ = r.Discard(2 * checksumSize) // Peek has them
		content = append(content[:0], make([]byte, length+checksumSize)...)
		if _, err := io.ReadFull(r, content); err != nil {
			return end, err
		}
		sum := binary.BigEndian.Uint32(content[length:])
		if checksum(end.number, content[:length]) != sum {
			if whole == rest {
				return end, nil
			}
			return end, errDamaged("a record is not what was written")
		}
		if err := take(content[0], content[1:length]); err != nil {
			return end, err
		}
		end.offset += whole
		end.number++
	}
}

// isZeros reports whether all that is left to read is zeros.
func isZeros(r *bufio.Reader) (bool, error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if len(bytes.TrimLeft(buf[:n], "\x00")) > 0 {
			return false, nil
		}
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// databaseMagic is what the journals of version 2 have in their bytes 16 to 19: they were databases
// of bbolt.
const databaseMagic = "\xed\xda\x0c\xed"

// notRecords returns the error for a file that has no records.
func notRecords(r *bufio.Reader) error {
	start, err := r.Peek(20)
	if err != nil && err != io.EOF {
		return err
	}
	if len(start) == 20 && string(start[16:]) == databaseMagic {
		return errJournalVersion(2)
	}
	return errNoJournal
}
