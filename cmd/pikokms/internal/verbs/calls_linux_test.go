package verbs

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"piko.sh/pikokms/cmd/pikokms/internal/files"
	"piko.sh/pikokms/cmd/pikokms/internal/keys"
	"piko.sh/pikokms/internal/race"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// tracedProgram runs pikokms with its calls of the file system answered by its parent. See calls.
const tracedProgram = "pikokms-traced"

func init() { programs[tracedProgram] = traced }

// fileCalls has the system calls that can be made to fail, and their errors.
var fileCalls = map[uint32]struct {
	name string
	err  syscall.Errno
}{
	unix.SYS_OPENAT:     {"openat", unix.EIO},
	unix.SYS_READ:       {"read", unix.EIO},
	unix.SYS_WRITE:      {"write", unix.ENOSPC},
	unix.SYS_PWRITE64:   {"pwrite64", unix.ENOSPC},
	unix.SYS_FSYNC:      {"fsync", unix.EIO},
	unix.SYS_FDATASYNC:  {"fdatasync", unix.EIO},
	unix.SYS_FTRUNCATE:  {"ftruncate", unix.ENOSPC},
	unix.SYS_RENAMEAT:   {"renameat", unix.ENOSPC},
	unix.SYS_LINKAT:     {"linkat", unix.ENOSPC},
	unix.SYS_UNLINKAT:   {"unlinkat", unix.EIO},
	unix.SYS_MKDIRAT:    {"mkdirat", unix.ENOSPC},
	unix.SYS_GETDENTS64: {"getdents64", unix.EIO},
	unix.SYS_FLOCK:      {"flock", unix.EIO},
	unix.SYS_CLOSE:      {"close", unix.EIO},
}

// traced makes the kernel ask the parent about each of these calls (seccomp_unotify(2)), and
// becomes pikokms. The parent is at the other end of file descriptor 3.
func traced() {
	runtime.LockOSThread() // the filter holds for this thread, and stays when it becomes pikokms
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}}
	left := len(fileCalls)
	for number := range fileCalls {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: number, Jt: uint8(left)})
		left--
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_USER_NOTIF})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	rights := func() error {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		path, err := exec.LookPath("pikokms")
		if err != nil {
			return err
		}
		listener, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
		if errno != 0 {
			return errno
		}
		if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(listener)), nil, 0); err != nil {
			return err
		}
		return syscall.Exec(path, append([]string{"pikokms"}, os.Args[1:]...), os.Environ())
	}
	fmt.Fprintln(os.Stderr, "pikokms-traced:", rights())
	os.Exit(3)
}

// notification is struct seccomp_notif.
type notification struct {
	id        uint64
	thread    uint32
	_         uint32
	call      uint32
	_         uint32
	_         uint64
	arguments [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

// calls counts the calls of the file system that a process makes below a folder, and fails one.
type calls struct {
	below  string
	only   string // the name of the calls that are counted; empty means all
	fails  int    // the number of the call, from 1; 0 for none
	made   int
	failed string // what failed
	err    syscall.Errno
}

// run runs pikokms.
func (c *calls) run(t *testing.T, arguments ...string) (code int, stdout, stderr string) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, tracedProgram, arguments...)
	command.ExtraFiles = []*os.File{theirs}
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	require.NoError(t, command.Start())
	require.NoError(t, theirs.Close())
	conn, err := net.FileConn(ours)
	require.NoError(t, err)
	defer conn.Close()
	buffer, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(buffer, rights)
	if err != nil || n == 0 {
		_ = command.Wait()
		t.Skip("the kernel lets no process answer another one's calls: ", errs.String())
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	require.NoError(t, err)
	received, err := unix.ParseUnixRights(&messages[0])
	require.NoError(t, err)
	answered := make(chan error, 1)
	go func() { answered <- c.answer(received[0]) }()
	_ = command.Wait()
	require.NoError(t, <-answered)
	return command.ProcessState.ExitCode(), out.String(), errs.String()
}

// answer lets calls pass, or fails them, until the process has ended.
func (c *calls) answer(listener int) error {
	defer unix.Close(listener)
	for {
		ready := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return err
		}
		if ready[0].Revents&unix.POLLIN == 0 {
			return nil // no process is left that makes calls
		}
		var asked notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&asked))); errno == unix.ENOENT || errno == unix.EINTR {
			continue // the process that made the call was killed
		} else if errno != 0 {
			return errno
		}
		answer := response{id: asked.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		call := fileCalls[asked.call]
		if path := asked.path(); strings.HasPrefix(path, c.below) && (c.only == "" || c.only == call.name) {
			if c.made++; c.made == c.fails {
				c.failed, c.err = fmt.Sprintf("call %d, %s of %s", c.made, call.name, path), call.err
				answer = response{id: asked.id, err: -int32(call.err)}
			}
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer))); errno != 0 && errno != unix.ENOENT {
			return errno
		}
	}
}

// path returns the path of the file that a call is about, or nothing if that is not known.
func (n *notification) path() string {
	at, name := n.arguments[0], uint64(0)
	switch n.call {
	case unix.SYS_OPENAT, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT:
		name = n.arguments[1]
	case unix.SYS_RENAMEAT, unix.SYS_LINKAT:
		at, name = n.arguments[2], n.arguments[3]
	}
	in := fmt.Sprintf("/proc/%d/cwd", n.thread)
	if int32(at) != unix.AT_FDCWD {
		in = fmt.Sprintf("/proc/%d/fd/%d", n.thread, int32(at))
	}
	path, _ := os.Readlink(in) // without it, the call is about no file
	if name == 0 {
		return path
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", n.thread))
	if err != nil {
		return ""
	}
	defer memory.Close()
	text := make([]byte, unix.PathMax)
	read, _ := memory.ReadAt(text, int64(name)) // up to the end of the mapping
	text, _, ended := bytes.Cut(text[:read], []byte{0})
	if !ended {
		return ""
	}
	if filepath.IsAbs(string(text)) {
		return string(text)
	}
	return filepath.Join(path, string(text))
}

// TestAFaultAtEachCallOfTheFileSystem makes each call of a command that is about its files fail in
// its turn. What was there stays, or the whole new object is there, no temporary file is left, and
// the error says what failed. The same command line then comes to a right end.
func TestAFaultAtEachCallOfTheFileSystem(t *testing.T) {
	race.SkipShort(t)
	startsManyProcesses(t)
	f := newFaultyFiles(t)
	every := 61
	if *allFaults {
		every = 1
	}
	faults, seen, left, begin := 0, 0, 0, time.Now()
	works := []task{
		{verb: "encrypt", from: "file", to: "file"},
		{verb: "encrypt", from: "file", to: "file", replaces: true},
		{verb: "encrypt", from: "file", inPlace: true},
		{verb: "encrypt", from: "folder", inPlace: true, resumed: true},
		{verb: "encrypt", from: "folder", to: "folder", resumed: true},
		{verb: "decrypt", from: "file", to: "file", replaces: true},
		{verb: "decrypt", from: "folder", inPlace: true, resumed: true},
		{verb: "decrypt", from: "folder", to: "folder", resumed: true},
		{verb: "rewrap", from: "folder", inPlace: true, resumed: true},
		{verb: "rewrap", from: "folder", to: "folder"},
		{verb: "verify", from: "folder", resumed: true},
		{verb: "inspect", from: "folder"},
		{verb: "ls", from: "folder"},
		{verb: "cat", from: "file"},
		{verb: "cat", from: "file", with: []string{"--range", "70000-"}},
	}
	for i, w := range works {
		for k := 1 + i%every; ; k += every {
			failed, wasSeen, leftovers := f.tryFiles(t, w, &calls{below: f.dir, fails: k})
			if !failed {
				break
			}
			faults, left = faults+1, left+leftovers
			if wasSeen {
				seen++
			}
		}
	}
	t.Logf("%d faults in %d command lines in %.0f s: %d errors that name them, %d without harm; no object is lost or in part, the same command line goes on, and %d temporary files that could not be removed are left",
		faults, len(works), time.Since(begin).Seconds(), seen, faults-seen, left)
}

// newFaultyFiles returns folders under local keys.
func newFaultyFiles(t *testing.T) *faulty {
	t.Helper()
	t.Setenv(keys.Variable, "")
	f := &faulty{breaking: &breaking{s3: &s3Server{objects: make(map[string]s3Object)}}, dir: t.TempDir(), decrypters: make(map[string]*message.Decrypter)}
	f.content()
	for name, k := range map[string]*string{"old.key": &f.old, "next.key": &f.next} {
		path := filepath.Join(f.dir, name)
		require.NoError(t, local.Generate(path))
		p, err := local.NewProvider(local.Config{KeyFile: path})
		require.NoError(t, err)
		*k = "local:" + path
		f.decrypters[*k] = &message.Decrypter{Keyrings: []provider.Unwrapper{p}}
		if k == &f.old {
			f.seal(t, p)
		}
	}
	return f
}

// mustBeSeen has the calls whose failure every command must report.
var mustBeSeen = []string{"read", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "renameat"}

// TestAFileThatCannotBeClosed makes OUT and the report of a command fail at last.
func TestAFileThatCannotBeClosed(t *testing.T) {
	startsManyProcesses(t)
	f := newFaultyFiles(t)
	for w, below := range map[*task]string{
		{verb: "encrypt", from: "file", to: "file"}:                    "out",
		{verb: "encrypt", from: "folder", to: "folder", resumed: true}: "report",
	} {
		tried := 0
		for k := 1; ; k++ {
			if failed, _, _ := f.tryFiles(t, *w, &calls{below: filepath.Join(f.dir, below), only: "close", fails: k}); !failed {
				break
			}
			tried++
		}
		require.NotZero(t, tried, w)
	}
}

// tryFiles makes a call of a command line fail. failed is false if there was no such call.
func (f *faulty) tryFiles(t *testing.T, w task, c *calls) (failed, seen bool, left int) {
	t.Helper()
	f.reset(t, f.source(w))
	if w.replaces {
		require.NoError(t, os.WriteFile(filepath.Join(f.dir, "out", "sub", "b"), previousOut, 0o600))
	}
	report, journal := filepath.Join(f.dir, "report"), filepath.Join(f.dir, "journal")
	require.NoError(t, os.RemoveAll(report))
	arguments := f.arguments(w, report, journal)
	code, stdout, stderr := c.run(t, arguments...)
	what := fmt.Sprintf("%s, %s: exit status %d: %s", w, c.failed, code, stderr)
	require.True(t, code == 0 || code == 1, what)
	if strings.Contains(c.failed, "unlinkat") {
		left = f.removeTemporary(t)
	}
	for _, name := range entries(f.dir) {
		require.NotContains(t, name, files.TemporaryPrefix, what)
	}
	done := f.check(t, w, what)
	if w.verb == "cat" {
		f.checkCat(t, w, code, []byte(stdout), what)
	}
	if code == 0 {
		f.checkWhole(t, w, done, journal, what)
		for _, call := range mustBeSeen {
			require.NotContains(t, c.failed, ", "+call+" ", what)
		}
		return c.failed != "", false, left
	}
	checkReport(t, report, done, what)
	require.NotEmpty(t, c.failed, what)
	if w.verb == "inspect" {
		stderr += stdout // each object's line says what is wrong with it
	}
	require.Contains(t, stderr, c.err.Error(), what)
	require.Contains(t, stderr, f.dir, what)

	c = &calls{below: f.dir}
	code, _, stderr = c.run(t, w.again(arguments)...)
	what += fmt.Sprintf("and then: exit status %d: %s", code, stderr)
	require.Zero(t, code, what)
	f.checkWhole(t, w, f.check(t, w, what), journal, what)
	return true, true, left
}

// removeTemporary removes temporary files, and returns how many there were.
func (f *faulty) removeTemporary(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(f.dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(entry.Name(), files.TemporaryPrefix) {
			n++
			err = os.Remove(path)
		}
		return err
	}))
	return n
}
