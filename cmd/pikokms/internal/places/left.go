package places

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Left is why a listing passes over something. It is 0 for an object, which is worked on. The
// numbers are stored in journals.
type Left uint8

const (
	leftLinkInside Left = iota + 1
	leftLinkNowhere
	leftLinkOutside
	leftPipe
	leftSocket
	leftDevice
	leftIrregular
	LeftEmptyFolder
	leftMetadata
	leftLikeMetadata
	leftUnfinished
	LeftOwn
)

// LeftKinds describes what is left out: how it is counted, why, and whether it may hold content
// that nothing else in the place holds.
var LeftKinds = [...]struct {
	One, Many, Reason string
	MayHold           bool
}{
	leftLinkInside:   {"symbolic link", "symbolic links", "it is a symbolic link to what is in this place under its own name", false},
	leftLinkNowhere:  {"symbolic link to no file", "symbolic links to no file", "it is a symbolic link, and leads to nothing that holds content", false},
	leftLinkOutside:  {"symbolic link out of the place", "symbolic links out of the place", "it is a symbolic link to what is not in this place; name that as a PLACE of its own", true},
	leftPipe:         {"named pipe", "named pipes", "it is a named pipe", false},
	leftSocket:       {"socket", "sockets", "it is a socket", false},
	leftDevice:       {"device", "devices", "it is a device", false},
	leftIrregular:    {"irregular file", "irregular files", "it is neither a file nor a folder that can be opened as one", true},
	LeftEmptyFolder:  {"empty folder", "empty folders", "it is a folder with nothing in it", false},
	leftMetadata:     {"metadata file", "metadata files", "gocloud.dev keeps an object's metadata in it", false},
	leftLikeMetadata: {"file named as metadata", "files named as metadata", "gocloud.dev takes a file of this name for an object's metadata, and there is no such object; name it as a PLACE of its own", true},
	leftUnfinished:   {"unfinished file", "unfinished files", "a process of pikokms writes it, or was killed while it did", true},
	LeftOwn:          {"file of this command line", "files of this command line", "this command line uses it", false},
}

// leftOfFile returns why a file of this path and type, below root, is left out. It is 0 for an
// object.
func leftOfFile(root, path string, mode fs.FileMode) Left {
	switch mode.Type() {
	case 0:
		return 0
	case fs.ModeDir:
		return LeftEmptyFolder
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

// leftOfLink returns why a symbolic link is left out.
func leftOfLink(root, path string) Left {
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
