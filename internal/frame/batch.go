package frame

// batch is a few consecutive regular frames of a pipeline, which are sealed or opened in one go.
type batch struct {
	sequence sequence // of these frames
	first    uint32   // the number of the first one
	frames   int

	input  []byte // plaintext to seal, or stored frames to open
	output []byte // where the result goes; nil if frames are opened in place

	out [][]byte // the result, in order
	err error    // of the first bad frame; out has the frames before it

	inBuffer, outBuffer []byte
	plaintext           int // how many first bytes of each buffer may be plaintext

	done chan struct{} // receives an element when the result is complete
}

func newBatch() *batch { return &batch{done: make(chan struct{}, 1)} }

// process seals or opens the frames.
func (b *batch) process() {
	defer func() { b.done <- struct{}{} }() // even after a panic, so that nobody waits for ever
	if b.sequence.opening {
		b.open()
		return
	}
	b.seal()
}

func (b *batch) seal() {
	length, size := b.sequence.config.Length, b.sequence.regularSize()
	for i := range b.frames {
		if _, b.err = b.sequence.sealRegular(b.output[i*size:], b.input[i*length:(i+1)*length]); b.err != nil {
			return
		}
	}
	b.out = append(b.out, b.output)
}

func (b *batch) open() {
	length, size := b.sequence.config.Length, b.sequence.regularSize()
	for i := range b.frames {
		var dst []byte // in place
		if b.output != nil {
			dst = b.output[i*length : (i+1)*length]
		}
		var plaintext []byte
		if plaintext, b.err = b.sequence.open(dst, b.input[i*size:(i+1)*size], false); b.err != nil {
			break
		}
		if b.output == nil {
			b.out = append(b.out, plaintext)
		}
	}
	if n := int(b.sequence.number-b.first) * length; n > 0 && b.output != nil {
		b.out = append(b.out, b.output[:n])
	}
}

// reset makes the batch ready for frames of a sequence. It keeps the buffers.
func (b *batch) reset(s *sequence) {
	*b = batch{
		sequence: sequence{config: s.config, opening: s.opening}, out: b.out[:0],
		inBuffer: b.inBuffer, outBuffer: b.outBuffer, plaintext: b.plaintext,
		done: b.done,
	}
}

// clean makes the batch ready for another pipeline. It keeps no plaintext, key or large buffer.
func (b *batch) clean() {
	clear(b.inBuffer[:min(b.plaintext, len(b.inBuffer))])
	clear(b.outBuffer[:min(b.plaintext, len(b.outBuffer))])
	clear(b.out[:cap(b.out)])
	b.plaintext = 0
	b.reset(&sequence{})
	if max(len(b.inBuffer), len(b.outBuffer)) > longBatch {
		b.inBuffer, b.outBuffer = nil, nil
	}
}

// room returns the first n bytes of a buffer, which it replaces by one of size bytes if it is too
// small.
func room(buffer *[]byte, n, size int) []byte {
	if len(*buffer) < n {
		*buffer = make([]byte, size)
	}
	return (*buffer)[:n]
}
