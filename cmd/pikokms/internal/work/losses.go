package work

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"piko.sh/pikokms/cmd/pikokms/internal/console"
	"piko.sh/pikokms/cmd/pikokms/internal/places"
	"piko.sh/pikokms/s3storage"
)

// lossKinds are what --allow-loss takes.
var lossKinds = []string{s3storage.LossACL, s3storage.LossChecksum, s3storage.LossLock, s3storage.LossMetadata, s3storage.LossTags, places.LossTime}

// losses counts the objects whose replacements can't keep something, by its kind.
type losses struct {
	mu      sync.Mutex
	objects map[string]int64
}

func (l *losses) add(found []s3storage.Loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.objects == nil {
		l.objects = make(map[string]int64)
	}
	for _, loss := range found {
		l.objects[loss.Kind]++
	}
}

// say reports how many objects have lost something, or would lose it.
func (l *losses) say(dryRun bool) {
	word := "lost"
	if dryRun {
		word = "would lose"
	}
	for _, kind := range slices.Sorted(maps.Keys(l.objects)) {
		n := l.objects[kind]
		console.Say(slog.LevelWarn, fmt.Sprintf("%s %s their %s", console.Count(n, "object"), word, kind), "kind", kind, "objects", n)
	}
}

// checkKept returns an error if the result can't keep something of the object that it replaces,
// unless that is allowed. It counts what can't be kept.
func (t *target) checkKept(ctx context.Context, s *places.Source) error {
	if t.place != nil || s.NotKept == nil {
		return nil
	}
	found, err := s.NotKept(ctx)
	if err != nil {
		return places.OfStorage(err)
	}
	err = t.Allowed.Refuse(found)
	if t.dryRun || err == nil {
		t.notKept.add(found)
	}
	return err
}
