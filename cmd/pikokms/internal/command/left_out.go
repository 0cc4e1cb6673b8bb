package command

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// left says why a listing passes over something. It is 0 for an object, which is worked on. The
// numbers are stored in journals.
type left uint8

const (
	leftLinkInside left = iota + 1
	leftLinkNowhere
	leftLinkOutside
	leftPipe
	leftSocket
	leftDevice
	leftIrregular
	leftEmptyFolder
	leftMetadata
	leftLikeMetadata
	leftUnfinished
	leftOwn
)

// leftKinds describes what is left out: how it is counted, why, and whether it may hold content
// that nothing else in the place holds.
var leftKinds = [...]struct {
	one, many, reason string
	mayHold           bool
}{
	leftLinkInside:   {"symbolic link", "symbolic links", "it is a symbolic link to what is in this place under its own name", false},
	leftLinkNowhere:  {"symbolic link to no file", "symbolic links to no file", "it is a symbolic link, and leads to nothing that holds content", false},
	leftLinkOutside:  {"symbolic link out of the place", "symbolic links out of the place", "it is a symbolic link to what is not in this place; name that as a PLACE of its own", true},
	leftPipe:         {"named pipe", "named pipes", "it is a named pipe", false},
	leftSocket:       {"socket", "sockets", "it is a socket", false},
	leftDevice:       {"device", "devices", "it is a device", false},
	leftIrregular:    {"irregular file", "irregular files", "it is neither a file nor a folder that can be opened as one", true},
	leftEmptyFolder:  {"empty folder", "empty folders", "it is a folder with nothing in it", false},
	leftMetadata:     {"metadata file", "metadata files", "gocloud.dev keeps an object's metadata in it", false},
	leftLikeMetadata: {"file named as metadata", "files named as metadata", "gocloud.dev takes a file of this name for an object's metadata, and there is no such object; name it as a PLACE of its own", true},
	leftUnfinished:   {"unfinished file", "unfinished files", "a process of pikokms writes it, or was killed while it did", true},
	leftOwn:          {"file of this command line", "files of this command line", "this command line uses it", false},
}

// resultLeftOut is the result of what is left out, in a report.
const resultLeftOut = "left out"

// leftOfFile returns why a file of this path and type is no object in a place below root.
func leftOfFile(root, path string, mode fs.FileMode) left {
	switch mode.Type() {
	case 0:
		return 0
	case fs.ModeDir:
		return leftEmptyFolder
	case fs.ModeNamedPipe:
		return leftPipe
	case fs.ModeSocket:
		return leftSocket
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		return leftDevice
	case fs.ModeSymlink:
		return leftOfLink(root, path)
	}
	return leftIrregular
}

func leftOfLink(root, path string) left {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return leftLinkNowhere
	case err == nil && !info.IsDir() && !info.Mode().IsRegular():
		return leftLinkNowhere
	}
	to, err := filepath.EvalSymlinks(path)
	if err == nil {
		to, err = filepath.Abs(to)
	}
	if err != nil {
		return leftLinkOutside // as far as can be seen
	}
	if root, err = filepath.EvalSymlinks(root); err == nil {
		root, err = filepath.Abs(root)
	}
	if relative, relErr := filepath.Rel(root, to); err == nil && relErr == nil && filepath.IsLocal(relative) {
		return leftLinkInside
	}
	return leftLinkOutside
}

// leftText counts what is left out by its kind, for the last line.
func (p *plan) leftText() string {
	var all []string
	for kind, n := range p.left {
		switch {
		case n == 1:
			all = append(all, "1 "+leftKinds[kind].one)
		case n > 1:
			all = append(all, fmt.Sprintf("%d %s", n, leftKinds[kind].many))
		}
	}
	if all == nil {
		return ""
	}
	return "; left out " + strings.Join(all, ", ")
}

// leftFields returns what leftText says, for programs: how many of each kind are left out.
func (p *plan) leftFields() map[string]int64 {
	fields := make(map[string]int64)
	for kind, n := range p.left {
		if n > 0 {
			fields[leftKinds[kind].many] = n
		}
	}
	return fields
}

// leftContent returns how many things are left out that may hold content.
func (p *plan) leftContent() (n int64) {
	for kind, many := range p.left {
		if leftKinds[kind].mayHold {
			n += many
		}
	}
	return n
}

// leftAdvice says what to do about what is left out and may hold content.
func (p *plan) leftAdvice() string {
	return fmt.Sprintf("%d of what is left out may hold content; --exclude leaves it out knowingly", p.leftContent())
}

// leftNamed is how many things that are left out are named on standard error.
const leftNamed = 20

// sayLeft names what is left out and may hold content.
func (p *plan) sayLeft(say func(level slog.Level, text string, fields ...any)) {
	n := int64(0)
	if p.leftContent() == 0 {
		return
	}
	for i := range p.leftOut() {
		if !leftKinds[i.left].mayHold {
			continue
		}
		if n++; n > leftNamed {
			say(slog.LevelError, fmt.Sprintf("left out %d more; --report names all", p.leftContent()-leftNamed))
			return
		}
		say(slog.LevelError, fmt.Sprintf("left out %s: %s", printable(i.title()), leftKinds[i.left].reason), "object", i.title(), "reason", leftKinds[i.left].reason)
	}
}
