package frame

import (
	"encoding/binary"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"piko.sh/pikokms/internal/memory"
)

const (
	// parallelFrom is the number of bytes of plaintext that a stream seals or opens on one core before it takes several.
	parallelFrom = 1 << 20

	// runBytes is the size of a run: four frames of 64 KiB, which are work enough to be worth a goroutine. A call that has taken
	// longFrom bytes goes on with runs of longRun: they take more memory, and up to a tenth less time.
	runBytes = 4 * (64<<10 + RegularOverhead)
	longRun  = 2 * runBytes
	longFrom = 16 << 20

	// MaxRunBytes bounds the memory in bytes that the runs of a stream take.
	MaxRunBytes = 32 << 20

	// MaxDefaultParallelism bounds what a Parallelism of 0 means.
	MaxDefaultParallelism = 8

	extraRuns = 4 // that are being read or written, or wait
	maxRuns   = MaxRunBytes / (2 * longRun)
)

// coresTaken counts the goroutines that all pipelines of the process may have at work.
var coresTaken atomic.Int32

// run is regular frames in a row, which one goroutine seals or opens.
type run struct {
	sequence
	first  uint32 // frame's number
	frames int

	frame   []byte // where the frames go, or stand
	content []byte // where the contents stand, or go; opening in place if nil

	out [][]byte // what came of it, in order
	err error    // behind out

	frameBuffer, contentBuffer []byte
	opened                     int // bytes of them that may be plaintext

	done chan struct{}
	work func() // is its goroutine's; bound once, so that starting one allocates nothing
}

func (r *run) seal() {
	size := r.Length + RegularOverhead
	for i := range r.frames {
		if _, r.err = r.sealRegular(r.frame[i*size:], r.content[i*r.Length:(i+1)*r.Length]); r.err != nil {
			return
		}
	}
	r.out = append(r.out, r.frame[:r.frames*size])
}

func (r *run) open() {
	size := r.Length + RegularOverhead
	for i := range r.frames {
		var dst []byte // in place
		if r.content != nil {
			dst = r.content[i*r.Length : (i+1)*r.Length]
		}
		var plaintext []byte
		if plaintext, r.err = r.sequence.open(dst, r.frame[i*size:(i+1)*size], false); r.err != nil {
			break
		}
		if r.content == nil {
			r.out = append(r.out, plaintext)
		}
	}
	if n := int(r.number-r.first) * r.Length; n > 0 && r.content != nil {
		r.out = append(r.out, r.content[:n])
	}
}

// pipeline seals or opens runs side by side, during one call of a stream: the call's goroutine reads them, or cuts them from
// memory, up to n others work on them, and one more writes what comes of them, in order.
type pipeline struct {
	sequence  *sequence // number is that of the next run's first frame
	opening   bool
	runFrames int // frames of a run, at most

	src    io.Reader     // of what is sealed or opened,
	memory memory.Source // if it does not stand there,
	in     []byte        // or here
	held   []byte        // opening: what was read of src before
	dst    io.Writer     // of what comes of it,
	into   []byte        // if that does not go here

	given int64  // bytes that dst took, or into has
	used  int64  // bytes of into that were written to
	taken int64  // bytes of src or in
	err   error  // dst's
	rest  []byte // what dst did not take
	bad   error  // a frame's; all before it was given

	ended  bool   // no run is left in src:
	tail   []byte // what was read of it behind the last one
	srcErr error  // and the error behind that, such as io.EOF; nil if src has more

	idle    chan *run
	started chan *run     // in order; nil is the last
	working chan struct{} // has an element for each run at work
	failed  chan struct{} // err or bad is set
	stopped chan struct{} // the goroutine that delivers has ended:

	whole    bool // by itself,
	panicked any  // or with a panic

	deliver func() // is that goroutine's
}

var pipelines = sync.Pool{New: func() any {
	p := &pipeline{idle: make(chan *run, maxRuns), started: make(chan *run, maxRuns+1), failed: make(chan struct{}, 1), stopped: make(chan struct{}, 1)}
	p.deliver = p.deliverAll
	return p
}}

// parallel returns a pipeline if the stream is long enough for one, with the bytes of plaintext that are ahead for certain, and
// else nil. The caller closes it. By default streams share the cores: one that finds them taken goes on alone for a while.
func (s *sequence) parallel(opening bool, ahead int) *pipeline {
	if s.parallelFrom == never || s.number < s.parallelFrom && ahead < parallelFrom {
		return nil
	}
	size := s.Length + RegularOverhead
	n := s.Parallelism
	if n == 0 {
		n = min(MaxDefaultParallelism, runtime.GOMAXPROCS(0)-int(coresTaken.Load()))
	}
	n = min(n, min(maxRuns, MaxRunBytes/(2*max(1, longRun/size)*size))-extraRuns)
	if n < 2 {
		s.parallelFrom = s.number + min(uint32(parallelFrom/s.Length)+1, endMarker-1-s.number)
		return nil
	}
	coresTaken.Add(int32(n))
	p := pipelines.Get().(*pipeline)
	p.sequence, p.opening, p.runFrames = s, opening, max(1, runBytes/size)
	if cap(p.working) != n {
		p.working = make(chan struct{}, n)
	}
	for len(p.idle) > n+extraRuns {
		<-p.idle
	}
	for len(p.idle) < n+extraRuns {
		p.idle <- p.newRun()
	}
	return p
}

// parallelOf is parallel for what src gives behind held, from where it stands if that is in memory.
func (s *sequence) parallelOf(opening bool, src io.Reader, m memory.Source, held []byte) *pipeline {
	var ahead []byte
	if len(held) == 0 {
		ahead = bytesAhead(m)
	}
	if len(ahead) > 0 && s.isSmall(len(ahead)) {
		return nil
	}
	p := s.parallel(opening, len(ahead))
	switch {
	case p == nil:
	case len(ahead) > 0:
		p.memory = m
	default:
		p.src, p.held = src, held
	}
	return p
}

// isSmall tells that a Read or a Write of n bytes is not worth several goroutines.
func (s *sequence) isSmall(n int) bool { return n < 2*max(runBytes, s.Length+RegularOverhead) }

func (p *pipeline) newRun() *run {
	r := &run{done: make(chan struct{}, 1)}
	r.work = func() {
		p.working <- struct{}{}
		if p.opening {
			r.open()
		} else {
			r.seal()
		}
		<-p.working
		r.done <- struct{}{}
	}
	return r
}

// reset keeps what is of use again.
func (r *run) reset(c Config) {
	*r = run{
		sequence: sequence{Config: c}, out: r.out[:0],
		frameBuffer: r.frameBuffer, contentBuffer: r.contentBuffer, opened: r.opened,
		done: r.done, work: r.work,
	}
}

// room returns the first n bytes of a buffer, which it makes for the largest run there is now if need be.
func (p *pipeline) room(buffer *[]byte, n int) []byte {
	if len(*buffer) < n {
		*buffer = make([]byte, max(n, p.runFrames*(p.sequence.Length+RegularOverhead)))
	}
	return (*buffer)[:n]
}

// close hands the pipeline on. Nothing is at work any more.
func (p *pipeline) close() {
	coresTaken.Add(-int32(cap(p.working)))
	for range len(p.idle) {
		r := <-p.idle
		clear(r.frameBuffer[:min(r.opened, len(r.frameBuffer))])
		clear(r.contentBuffer[:min(r.opened, len(r.contentBuffer))])
		clear(r.out[:cap(r.out)])
		r.opened = 0
		r.reset(Config{})
		if max(len(r.frameBuffer), len(r.contentBuffer)) > longRun {
			r.frameBuffer, r.contentBuffer = nil, nil
		}
		p.idle <- r
	}
	*p = pipeline{idle: p.idle, started: p.started, working: p.working, failed: p.failed, stopped: p.stopped, deliver: p.deliver}
	pipelines.Put(p)
}

func bytesAhead(m memory.Source) []byte {
	if m == nil {
		return nil
	}
	return m.Ahead()
}

// run seals or opens what there is of whole regular frames. It returns when nothing is at work any more.
func (p *pipeline) run() {
	go p.deliver()
	defer p.stop()
	for more := true; more; {
		select {
		case <-p.failed:
			return
		case <-p.stopped:
			p.stopped <- struct{}{}
			return
		case r := <-p.idle:
			more = p.fill(r)
			if r.frames == 0 {
				p.idle <- r
				continue
			}
			r.first, r.number = p.sequence.number, p.sequence.number
			p.sequence.number += uint32(r.frames)
			p.started <- r
			go r.work()
		}
	}
}

func (p *pipeline) stop() {
	p.started <- nil
	<-p.stopped
	for len(p.started) > 0 { // after a panic
		if r := <-p.started; r != nil {
			<-r.done
			p.idle <- r
		}
	}
	select {
	case <-p.failed:
	default:
	}
	if p.panicked != nil {
		panic(p.panicked)
	}
	if !p.whole {
		runtime.Goexit() // as dst did
	}
}

func (p *pipeline) deliverAll() {
	defer func() {
		p.panicked = recover()
		p.stopped <- struct{}{}
	}()
	for failed := false; ; {
		r := <-p.started
		if r == nil {
			p.whole = true
			return
		}
		<-r.done
		p.give(r)
		p.idle <- r
		if !failed && (p.err != nil || p.bad != nil) {
			failed = true
			p.failed <- struct{}{}
		}
	}
}

// give gives what came of a run. Nothing is given behind a frame that was bad.
func (p *pipeline) give(r *run) {
	if p.bad != nil {
		return
	}
	for _, piece := range r.out {
		if p.err != nil {
			p.rest = append(p.rest, piece...)
			continue
		}
		n := len(piece)
		if p.dst != nil {
			n, p.err = writeAll(p.dst, piece)
		}
		p.given += int64(n)
		p.rest = append(p.rest, piece[n:]...)
	}
	p.bad = r.err
}

// fill gives a run its frames, and tells whether there may be more for the next one.
func (p *pipeline) fill(r *run) (more bool) {
	r.reset(p.sequence.Config)
	length, size := r.Length, r.Length+RegularOverhead
	if p.taken >= longFrom {
		p.runFrames = max(1, longRun/size)
	}
	frames := min(p.runFrames, int(endMarker-p.sequence.number))
	if p.into != nil && len(p.into) < frames*size {
		return false
	}
	if p.opening {
		r.frame, r.frames = p.takeFrames(r, frames)
		p.taken += int64(r.frames * size)
		p.used += int64(r.frames * length)
		switch {
		case p.into != nil:
			r.content, p.into = p.into[:r.frames*length], p.into[r.frames*length:]
		case p.src == nil:
			r.content = p.room(&r.contentBuffer, r.frames*length)
			fallthrough
		default:
			r.opened = max(r.opened, r.frames*size)
		}
	} else {
		r.content, r.frames = p.takeContents(r, frames)
		p.taken += int64(r.frames * length)
		p.used += int64(r.frames * size)
		if p.into != nil {
			r.frame, p.into = p.into[:r.frames*size], p.into[r.frames*size:]
		} else {
			r.frame = p.room(&r.frameBuffer, r.frames*size)
		}
	}
	return r.frames > 0 && !p.ended && (p.into == nil || r.frames == frames)
}

// ahead returns what is in memory, as far as its source still gives it.
func (p *pipeline) ahead() []byte {
	if p.memory != nil {
		return p.memory.Ahead()
	}
	return p.in
}

func (p *pipeline) skip(n int) {
	if p.memory != nil {
		p.memory.Skip(n)
		return
	}
	p.in = p.in[n:]
}

// takeContents returns the contents of the next frames, as many as src gives at once, but one at least.
func (p *pipeline) takeContents(r *run, most int) (contents []byte, frames int) {
	if p.src == nil {
		in := p.ahead()
		frames = min(most, len(in)/r.Length)
		p.skip(frames * r.Length)
		return in[:frames*r.Length], frames
	}
	b := p.room(&r.contentBuffer, most*r.Length)
	have, err := readMultiple(p.src, b, 0, r.Length)
	r.opened = max(r.opened, have)
	frames = have / r.Length
	if err != nil || frames == 0 {
		p.end(b[frames*r.Length:have], err)
	}
	return b[:frames*r.Length], frames
}

// takeFrames returns the next frames, as many as src gives at once, but one at least. It takes regular ones alone.
func (p *pipeline) takeFrames(r *run, most int) (taken []byte, frames int) {
	size := r.Length + RegularOverhead
	if p.src == nil {
		in := p.ahead()
		frames = p.regular(in, most)
		p.skip(frames * size)
		return in[:frames*size], frames
	}
	b := p.room(&r.frameBuffer, max(most*size, len(p.held)))
	have, err := readMultiple(p.src, b[:max(most*size, len(p.held))], copy(b, p.held), size)
	p.held = nil
	frames = p.regular(b[:have], most)
	if tail := b[frames*size : have]; err != nil || len(tail) > 0 || frames == 0 {
		p.end(tail, err)
	}
	return b[:frames*size], frames
}

func (p *pipeline) end(tail []byte, err error) {
	p.ended, p.tail, p.srcErr = true, append([]byte(nil), tail...), err
}

// readMultiple reads what src gives at once to b, behind the bytes that it has, and on to a multiple of size. It returns how many
// bytes b has.
func readMultiple(src io.Reader, b []byte, have, size int) (int, error) {
	if have == len(b) {
		return have, nil
	}
	n, err := read(src, b[have:], 1)
	have += n
	if missing := (size - have%size) % size; err == nil && missing > 0 {
		n, err = read(src, b[have:have+missing], missing)
		have += n
	}
	return have, err
}

// regular returns how many whole regular frames b begins with, of those that come next.
func (p *pipeline) regular(b []byte, most int) (frames int) {
	size := p.sequence.Length + RegularOverhead
	for frames < most && len(b) >= size && binary.BigEndian.Uint32(b) == p.sequence.number+uint32(frames) {
		b = b[size:]
		frames++
	}
	return frames
}

// pushedBack gives what was read ahead, and how that ended if err is not nil, before the rest of src.
type pushedBack struct {
	bytes []byte
	err   error
	src   io.Reader
}

func (r *pushedBack) Read(p []byte) (int, error) {
	if len(r.bytes) > 0 {
		n := copy(p, r.bytes)
		r.bytes = r.bytes[n:]
		return n, nil
	}
	if r.err != nil {
		return 0, r.err
	}
	return r.src.Read(p)
}
