package frame

import (
	"encoding/binary"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"piko.sh/pikokms/internal/checked"
	"piko.sh/pikokms/internal/cores"
)

const (
	// parallelFrom is how many bytes of plaintext a stream seals or opens on one goroutine before
	// it takes several.
	parallelFrom = 1 << 20

	// batchBytes is the size of a batch: four frames of 64 KiB, which are enough work for a
	// goroutine to be worth starting. After longFrom bytes of a call, batches have longBatch bytes:
	// that takes more memory, and up to a tenth less time.
	batchBytes = 4 * (64<<10 + RegularOverhead)
	longBatch  = 2 * batchBytes
	longFrom   = 16 << 20

	// MaxParallelMemory bounds the memory, in bytes, that a stream takes to work on several cores.
	MaxParallelMemory = 32 << 20

	// extraBatches are those that are being read or written, or wait for it.
	extraBatches = 4
	maxBatches   = MaxParallelMemory / (2 * longBatch)
)

// pipeline seals or opens a stream's regular frames on several cores, during one call of the
// stream. It works on batches, each some consecutive frames, and has three parts:
//
//   - run, on the goroutine of the call, cuts the input into batches;
//   - workers, each on a goroutine of its own, seal or open batches. If the stream gets no worker,
//     since other streams have all cores, run does their work itself;
//   - deliver, on one more goroutine, takes the batches in the order of their frames and writes the
//     output.
//
// It leaves the final frame, and whatever is not a whole regular frame, to the stream.
type pipeline struct {
	frames *sequence // number is that of the next batch's first frame
	src    *source

	// The output goes to dst or, if that is nil, to into.
	dst  io.Writer
	into []byte
	used int64 // bytes of into that were written to

	inMemory  bool  // the input is taken from where it stands
	taken     int64 // bytes of input
	perBatch  int   // frames of a batch, at most
	most      int   // workers, at most
	isDefault bool  // the stream states no parallelism

	// What deliver leaves. Workers and run don't touch it before deliver has ended.
	delivered int64  // bytes of output that dst took, or that are in into
	rest      []byte // output that dst did not take
	dstErr    error  // dst's
	bad       error  // of a frame that is not good. All output before it was delivered.

	idle    chan *batch
	filling *batch      // the one that run has in hand
	started chan *batch // in the order of their frames; nil after the last one

	mu      sync.Mutex
	queue   chan *batch // waits for a worker
	working int         // workers that look at the queue once more before they end
	workers sync.WaitGroup

	failed   atomic.Bool   // dstErr or bad is set, or dst has panicked: the rest is of no use
	finished chan struct{} // receives an element when deliver has ended,
	ended    bool          // by itself, and not by a panic or runtime.Goexit of dst
	panicked any           // dst's

	// These are the methods, bound once so that starting a goroutine allocates nothing.
	workFunc, deliverFunc func()
}

// pipelines keeps pipelines with their batches' buffers.
var pipelines = sync.Pool{New: func() any {
	p := &pipeline{
		idle:     make(chan *batch, maxBatches),
		started:  make(chan *batch, maxBatches+1),
		queue:    make(chan *batch, maxBatches),
		finished: make(chan struct{}, 1),
	}
	p.workFunc, p.deliverFunc = p.work, p.deliver
	return p
}}

// pipelinesOpen counts the pipelines of streams that state no parallelism. There is at most one for
// two cores, which bounds the memory of many streams at once.
var pipelinesOpen atomic.Int32

// isSmall tells that a Read or a Write of n bytes is not worth several goroutines.
func (s *sequence) isSmall(n int) bool { return n < 2*max(batchBytes, s.regularSize()) }

// openPipeline returns a pipeline of src if there is enough in it to be worth one, and else nil.
// The caller sets its output, runs and closes it.
func openPipeline(frames *sequence, src *source) *pipeline {
	if frames.parallelFrom == never || src.mixed {
		return nil
	}
	ahead := len(src.ahead())
	if ahead > 0 && frames.isSmall(ahead) || frames.number < frames.parallelFrom && ahead < parallelFrom {
		return nil
	}
	size, stated := frames.regularSize(), frames.config.Parallelism
	memory := 2 * max(1, longBatch/size) * size // of a batch, as input and as output
	most := min(cores.Most(stated), min(maxBatches, MaxParallelMemory/memory)-extraBatches)
	if most < 2 || stated == 0 && (cores.Free() < 2 || !countPipeline()) {
		// Ask again after as much plaintext as came before.
		frames.parallelFrom = frames.number + min(uint32(parallelFrom/frames.config.Length)+1, endMarker-1-frames.number)
		return nil
	}
	p := pipelines.Get().(*pipeline)
	p.frames, p.src, p.inMemory = frames, src, ahead > 0
	p.most, p.isDefault, p.perBatch = most, stated == 0, max(1, batchBytes/size)
	for len(p.idle) > most+extraBatches {
		<-p.idle
	}
	for len(p.idle) < most+extraBatches {
		p.idle <- newBatch()
	}
	return p
}

func countPipeline() bool {
	if int(pipelinesOpen.Add(1)) <= max(1, runtime.GOMAXPROCS(0)/2) {
		return true
	}
	pipelinesOpen.Add(-1)
	return false
}

// close hands the pipeline on, without plaintext in its buffers. Nothing is at work any more.
func (p *pipeline) close() {
	if p.isDefault {
		pipelinesOpen.Add(-1)
	}
	for range len(p.idle) {
		b := <-p.idle
		b.clean()
		p.idle <- b
	}
	*p = pipeline{
		idle: p.idle, started: p.started, queue: p.queue, finished: p.finished,
		workFunc: p.workFunc, deliverFunc: p.deliverFunc,
	}
	pipelines.Put(p)
}

// run seals or opens all whole regular frames that come next. When it returns, nothing is at work
// any more.
func (p *pipeline) run() {
	go p.deliverFunc()
	defer p.finish()
	for more := true; more && !p.failed.Load(); {
		p.filling = <-p.idle
		more = p.fill(p.filling)
		if p.filling.frames == 0 {
			return
		}
		b := p.filling
		p.filling = nil
		b.first, b.sequence.number = p.frames.number, p.frames.number
		p.frames.number += uint32(b.frames)
		p.started <- b
		p.hand(b)
	}
}

// hand hands a batch to the workers. It starts one more if the stream may have it. Without a
// worker, it does the work itself.
func (p *pipeline) hand(b *batch) {
	p.mu.Lock()
	if p.working < p.most && cores.Take(p.frames.config.Parallelism, 1) == 1 {
		p.working++
		p.workers.Add(1)
		go p.workFunc()
	}
	alone := p.working == 0
	if !alone {
		p.queue <- b
	}
	p.mu.Unlock()
	if alone {
		b.process()
	}
}

// work is a worker: it seals or opens batches until there are none that wait.
func (p *pipeline) work() {
	defer p.workers.Done()
	for {
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.working--
			cores.Give(1)
			p.mu.Unlock()
			return
		}
		b := <-p.queue
		p.mu.Unlock()
		b.process()
	}
}

// finish waits until all output is delivered. It passes a panic of dst on to the caller of run.
func (p *pipeline) finish() {
	if p.filling != nil {
		p.idle <- p.filling
	}
	p.started <- nil
	<-p.finished
	p.workers.Wait()
	if p.panicked != nil {
		panic(p.panicked)
	}
	if !p.ended {
		runtime.Goexit() // as dst did
	}
}

// deliver writes the output of all batches. Should dst panic, it only takes them back.
func (p *pipeline) deliver() {
	defer func() {
		if !p.ended {
			p.panicked = recover()
			p.failed.Store(true)
			for b := <-p.started; b != nil; b = <-p.started {
				<-b.done
				p.idle <- b
			}
		}
		p.finished <- struct{}{}
	}()
	for b := <-p.started; b != nil; b = <-p.started {
		<-b.done
		p.give(b)
	}
	p.ended = true
}

// give delivers a batch's output, unless a frame before it was bad.
func (p *pipeline) give(b *batch) {
	defer func() { p.idle <- b }()
	if p.bad != nil {
		return
	}
	for _, piece := range b.out {
		if p.dstErr != nil {
			p.rest = append(p.rest, piece...)
			continue
		}
		n := len(piece)
		if p.dst != nil {
			n, p.dstErr = checked.Write(p.dst, piece)
		}
		p.delivered += int64(n)
		p.rest = append(p.rest, piece[n:]...)
	}
	p.bad = b.err
	if p.bad != nil || p.dstErr != nil {
		p.failed.Store(true)
	}
}

// fill gives a batch its input, and room for its output. It tells whether there may be more for the
// next one.
func (p *pipeline) fill(b *batch) (more bool) {
	b.reset(p.frames)
	if p.taken >= longFrom {
		p.perBatch = max(1, longBatch/p.frames.regularSize())
	}
	most := min(p.perBatch, int(endMarker-p.frames.number))
	if most == 0 || p.into != nil && len(p.into) < most*p.frames.regularSize() {
		return false
	}
	p.takeInput(b, most)
	outBytes := b.frames * p.frames.outSize()
	p.taken += int64(len(b.input))
	p.used += int64(outBytes)
	switch {
	case p.into != nil:
		b.output, p.into = p.into[:outBytes], p.into[outBytes:]
	case p.frames.opening && !p.inMemory:
		b.output = nil // in place: the input is the batch's own
	default:
		b.output = room(&b.outBuffer, outBytes, most*p.frames.regularSize())
		b.plaintext = max(b.plaintext, outBytes)
	}
	return b.frames > 0 && !p.src.mixed && (b.frames == most || p.into == nil)
}

// takeInput gives a batch the next frames: as many as the source has at once, but at least one. If
// it has none, or something else comes next, the batch has fewer, and what was read goes back.
func (p *pipeline) takeInput(b *batch, most int) {
	size := p.frames.inSize()
	if p.inMemory {
		ahead := p.src.ahead()
		b.frames = p.wholeFrames(ahead, most)
		b.input = ahead[:b.frames*size]
		p.src.skip(len(b.input))
		return
	}
	in := room(&b.inBuffer, most*size, most*p.frames.regularSize())
	n, err := p.src.readMultiple(in, size)
	b.plaintext = max(b.plaintext, n)
	b.frames = p.wholeFrames(in[:n], most)
	b.input = in[:b.frames*size]
	if tail := in[len(b.input):n]; err != nil || len(tail) > 0 {
		p.src.unread = append([]byte(nil), tail...)
		p.src.mixed = true
	}
}

// wholeFrames returns how many of the next regular frames in begins with: as contents if they are
// sealed, as they are stored if they are opened.
func (p *pipeline) wholeFrames(in []byte, most int) (frames int) {
	if !p.frames.opening {
		return min(most, len(in)/p.frames.config.Length)
	}
	size := p.frames.regularSize()
	for frames < most && len(in) >= size && binary.BigEndian.Uint32(in) == p.frames.number+uint32(frames) {
		in = in[size:]
		frames++
	}
	return frames
}
