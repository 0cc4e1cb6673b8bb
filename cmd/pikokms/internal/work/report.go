package work

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"unicode/utf8"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/files"
)

// reportFile is the file of --report. It is nil if there is none.
type reportFile struct {
	file  *os.File
	lines *json.Encoder

	empties bool // whether begin empties the file
}

// openReport opens the file, or makes it. What an earlier command wrote stays until begin.
func openReport(path string) (*reportFile, error) {
	if path == "" {
		return nil, nil
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		if own := files.OwnStream(path, info); own != nil {
			return newReport(own, false), nil
		}
	}
	path, err := files.ResolveOutput(path, true)
	if err != nil {
		return nil, blameReport(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|files.NoFollow, 0o666)
	if err != nil {
		return nil, blameReport(err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, blameReport(errors.Join(err, f.Close()))
	}
	return newReport(f, info.Mode().IsRegular()), nil
}

func newReport(f *os.File, empties bool) *reportFile {
	r := &reportFile{f, json.NewEncoder(f), empties}
	r.lines.SetEscapeHTML(false)
	return r
}

// begin empties the file.
func (r *reportFile) begin() error {
	if r == nil || !r.empties {
		return nil
	}
	return blameReport(r.file.Truncate(0))
}

func (r *reportFile) write(o Outcome) error {
	if r == nil {
		return nil
	}
	if !utf8.ValidString(o.Name) {
		o.Name = console.Printable(o.Name) // JSON has no such names
	}
	return blameReport(r.lines.Encode(o))
}

func (r *reportFile) close() error {
	if r == nil {
		return nil
	}
	return blameReport(r.file.Close())
}

func blameReport(err error) error {
	if err != nil {
		err = fmt.Errorf("--report: %w", err)
	}
	return err
}
