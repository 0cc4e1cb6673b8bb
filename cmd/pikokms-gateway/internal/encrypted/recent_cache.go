package encrypted

import "sync"

// recentCache is a cache of the values that were put last. It bounds its size by dropping older
// ones. It is safe for concurrent use.
type recentCache[V any] struct {
	most int // values in each of the two generations

	mu         sync.Mutex
	young, old map[string]V
}

func (l *recentCache[V]) get(name string) (V, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.young[name]
	if !ok {
		v, ok = l.old[name]
	}
	return v, ok
}

func (l *recentCache[V]) put(name string, v V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.young) >= l.most {
		l.old, l.young = l.young, nil
	}
	if l.young == nil {
		l.young = make(map[string]V)
	}
	l.young[name] = v
}

func (l *recentCache[V]) drop(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.young, name)
	delete(l.old, name)
}
