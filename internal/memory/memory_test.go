package memory_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/memory"
)

func TestSource(t *testing.T) {
	content := []byte("what is in memory already")
	for name, r := range map[string]io.Reader{"Reader": bytes.NewReader(content), "Buffer": bytes.NewBuffer(bytes.Clone(content))} {
		t.Run(name, func(t *testing.T) {
			s := memory.Of(r)
			require.Equal(t, content, s.Ahead())
			require.Equal(t, content, s.Ahead(), "looking takes nothing")
			s.Skip(5)
			start := make([]byte, 3)
			_, err := io.ReadFull(s, start)
			require.NoError(t, err)
			require.Equal(t, "is ", string(start))
			require.Equal(t, content[8:], memory.Of(s).Ahead())
			s.Skip(len(content) - 8)
			require.Empty(t, s.Ahead())
			_, err = s.Read(start)
			require.ErrorIs(t, err, io.EOF)
			require.Zero(t, testing.AllocsPerRun(10, func() { s.Ahead() }))
		})
	}
	require.Nil(t, memory.Of(strings.NewReader("no bytes")))
}

func TestReaderIsNotCopied(t *testing.T) {
	content := []byte("content")
	require.Same(t, &content[0], &memory.Of(bytes.NewReader(content)).Ahead()[0])
}

func TestOverlap(t *testing.T) {
	b := make([]byte, 10)
	require.True(t, memory.Overlap(b[:5], b[4:]))
	require.True(t, memory.Overlap(b[4:], b[:5]))
	require.True(t, memory.Overlap(b, b[3:4]))
	require.False(t, memory.Overlap(b[:5], b[5:]))
	require.False(t, memory.Overlap(b[5:], b[:5]))
	require.False(t, memory.Overlap(b, nil))
}
