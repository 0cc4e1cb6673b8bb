package adversary

import (
	"errors"
	"io"
)

// ErrLost is the error of a broken connection.
var ErrLost = errors.New("connection lost")

// Ending is how a [Source] ends after its bytes.
type Ending struct {
	Err      error // nil for a source that returns nothing for ever
	WithData bool  // the error comes with the last bytes
	ForEver  bool  // each further read returns the error; otherwise io.EOF, as an HTTP body does
}

// Losses are the ways in which a source loses its connection, by name.
var Losses = map[string]Ending{
	"once":                       {Err: ErrLost},
	"for ever":                   {Err: ErrLost, ForEver: true},
	"once, with data":            {Err: ErrLost, WithData: true},
	"for ever, with data":        {Err: ErrLost, WithData: true, ForEver: true},
	"as unexpected EOF":          {Err: io.ErrUnexpectedEOF},
	"as unexpected EOF and data": {Err: io.ErrUnexpectedEOF, WithData: true},
}

// Source returns bytes, and then ends in one of the ways in which connections do. The zero Ending
// returns nothing for ever.
type Source struct {
	Rest   []byte
	Piece  int // the most bytes that it returns at once; 0 means any number
	Ending Ending

	Asked  int // how often it was read after its error
	failed bool
}

// Read implements io.Reader.
func (s *Source) Read(p []byte) (int, error) {
	if s.failed {
		s.Asked++
	}
	if s.failed && !s.Ending.ForEver {
		return 0, io.EOF
	}
	if s.Piece > 0 && len(p) > s.Piece {
		p = p[:s.Piece]
	}
	n := copy(p, s.Rest)
	s.Rest = s.Rest[n:]
	if len(s.Rest) > 0 || n > 0 && !s.Ending.WithData || s.Ending.Err == nil {
		return n, nil
	}
	s.failed = true
	return n, s.Ending.Err
}

// Close implements io.Closer, for sources that are the content of stored objects.
func (s *Source) Close() error { return nil }
