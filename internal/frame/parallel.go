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

	// batchBytes is the size of a batch: four frames of 64 KiB, which is enough work to start a
	// goroutine for. After the first longFrom bytes of a call, batches have longBatch bytes. That
	// takes more memory, and up to a tenth less time.
	batchBytes = 4 * (64<<10 + RegularOverhead)
	longBatch  = 2 * batchBytes
	longFrom   = 16 << 20

	// MaxParallelMemory bounds the memory in bytes that a stream takes when it uses several cores.
	MaxParallelMemory = 32 << 20

	// extraBatches is how many batches there are beside those of the workers: they are being read
	// or written, or wait for it.
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
	frames *sequence // its number is that of the first frame of the next batch
	src    *source

	// dst receives the output. If it is nil, the output goes to into.
	dst  io.Writer
	into []byte
	used int64 // how many bytes of into were written to

	inMemory  bool  // the workers take the input from the source's memory
	taken     int64 // how many bytes of input were taken
	perBatch  int   // the most frames in a batch
	most      int   // the most workers
	isDefault bool  // the stream's Parallelism is 0

	// deliver sets these four. Nobody else uses them before deliver has ended.
	delivered int64  // bytes of output that dst took, or that are in into
	rest      []byte // output that dst did not take
	dstErr    error  // what dst failed with
	bad       error  // of the first bad frame; all output before it was delivered

	idle    chan *batch
	filling *batch      // the batch that run is filling
	started chan *batch // in the order of their frames; nil marks the end

	mu      sync.Mutex
	queue   chan *batch // batches that wait for a worker
	working int         // workers that will look at the queue once more before they end
	workers sync.WaitGroup

	failed   atomic.Bool   // the rest is not needed: dstErr or bad is set, or dst has panicked
	finished chan struct{} // receives an element when deliver has ended
	ended    bool          // deliver returned, and was not ended by a panic or runtime.Goexit of dst
	panicked any           // the value that dst panicked with

	// workFunc and deliverFunc are the methods work and deliver. They are bound once, so that
	// starting a goroutine allocates nothing.
	workFunc, deliverFunc func()
}

// pipelines keeps pipelines, with their batches' buffers, for further streams.
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

// pipelinesOpen counts the pipelines of streams whose Parallelism is 0. At most one is open for
// every two cores, which bounds the memory of many streams at once.
var pipelinesOpen atomic.Int32

// isSmall reports whether a Read or Write of n bytes is too small for several goroutines.
func (s *sequence) isSmall(n int) bool { return n < 2*max(batchBytes, s.regularSize()) }

// openPipeline returns a pipeline of src, or nil if src does not have enough for one. The caller
// sets its output, runs it and closes it.
func openPipeline(frames *sequence, src *source) *pipeline {
	if frames.parallelFrom == never || src.mixed {
		return nil
	}
	ahead := len(src.ahead())
	if ahead > 0 && frames.isSmall(ahead) || frames.number < frames.parallelFrom && ahead < parallelFrom {
		return nil
	}
	size, stated := frames.regularSize(), frames.config.Parallelism
	memory := 2 * max(1, longBatch/size) * size // of one batch, as input and as output
	most := min(cores.Most(stated), min(maxBatches, MaxParallelMemory/memory)-extraBatches)
	if most < 2 || stated == 0 && (cores.Free() < 2 || !countPipeline()) {
		// The stream asks again after as much plaintext as came before.
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

// close clears the plaintext in the pipeline's buffers and returns it to its pool. No goroutine may
// use it any more.
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

// run seals or opens all whole regular frames that come next. When it returns, no goroutine is at
// work any more.
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

// hand gives a batch to the workers, and starts one more if the stream may have it. Without a
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

// work is a worker: it seals or opens batches until none is waiting.
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

// finish waits until all output is delivered. If dst has panicked, it panics with the same value.
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

// deliver writes the output of all batches. If dst panics, it only takes the batches back.
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

// fill gives a batch its input, and room for its output. It returns false if there is nothing for
// another batch.
func (p *pipeline) fill(b *batch) (more bool) {
	b.reset(p.frames)
	if p.taken >= longFrom {
		p.perBatch = longBatch / p.frames.regularSize()
		if p.isGathered() {
			p.perBatch-- // so that with the gap, the buffer is no larger than those of other batches
		}
		p.perBatch = max(1, p.perBatch)
	}
	most := int(min(uint32(p.perBatch), endMarker-p.frames.number)) // an int has 31 bits on some systems
	if most == 0 || p.into != nil && len(p.into) < most*p.frames.regularSize() {
		return false
	}
	gap := p.takeInput(b, most)
	outBytes := b.frames * p.frames.outSize()
	p.taken += int64(len(b.input))
	p.used += int64(outBytes)
	switch {
	case p.into != nil:
		b.output, p.into = p.into[:outBytes], p.into[outBytes:]
	case gap > 0:
		b.output = b.inBuffer[:outBytes]
	case p.isGathered():
		b.output = nil // a single frame is opened in place, within input
	default:
		b.output = room(&b.outBuffer, outBytes, most*p.frames.regularSize())
		b.plaintext = max(b.plaintext, outBytes)
	}
	return b.frames > 0 && !p.src.mixed && (b.frames == most || p.into == nil)
}

// isGathered reports whether frames are opened within the buffer that they were read to, and then
// written. Stored frames have headers and tags between them, so what is opened in place is as many
// pieces as there are frames, and as many writes. Therefore the buffer begins with a gap of one
// frame's plaintext, and the batch's frames are read to the room after it. Each frame is opened to
// the place of the one before it, and all plaintext ends up in one piece at the buffer's start.
func (p *pipeline) isGathered() bool { return p.frames.opening && !p.inMemory && p.into == nil }

// takeInput gives a batch the next frames: as many as the source has ready, but at least one. At
// the end of whole regular frames the batch gets fewer or none, and other bytes that were read go
// back to the source. It returns the size of the gap before the frames in the batch's inBuffer.
func (p *pipeline) takeInput(b *batch, most int) (gap int) {
	size := p.frames.inSize()
	if p.inMemory {
		ahead := p.src.ahead()
		b.frames = p.wholeFrames(ahead, most)
		b.input = ahead[:b.frames*size]
		p.src.skip(len(b.input))
		return 0
	}
	if p.isGathered() && most > 1 {
		gap = p.frames.config.Length
	}
	in := room(&b.inBuffer, gap+most*size, gap+most*p.frames.regularSize())[gap:]
	n, err := p.src.readMultiple(in, size)
	b.plaintext = max(b.plaintext, gap+n)
	b.frames = p.wholeFrames(in[:n], most)
	b.input = in[:b.frames*size]
	if tail := in[len(b.input):n]; err != nil || len(tail) > 0 {
		p.src.unread = append([]byte(nil), tail...)
		p.src.mixed = true
	}
	return gap
}

// wholeFrames returns how many whole regular frames are at the start of in. For sealing these are
// contents, for opening stored frames.
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
