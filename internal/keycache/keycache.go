// Package keycache keeps keys in memory: a limited number of them, each for a limited time.
package keycache

import (
	"container/list"
	"io"
	"sync"
	"time"
)

// Cache keeps values that hold keys. It closes a value when it drops it. That zeroes the key, once
// those who still use it have closed their shares. The Cache is guarded by its owner's lock, which
// the owner holds during each call.
type Cache[ID comparable, V io.Closer] struct {
	lock    sync.Locker
	limit   int
	entries map[ID]*entry[ID, V]
	used    *list.List // of *entry, last used first
	closed  bool
}

type entry[ID comparable, V io.Closer] struct {
	id      ID
	value   V
	ends    time.Time
	expiry  *time.Timer
	element *list.Element
}

// New returns an empty Cache. When it holds more values than limit, it drops the least recently
// used one.
func New[ID comparable, V io.Closer](lock sync.Locker, limit int) *Cache[ID, V] {
	return &Cache[ID, V]{lock: lock, limit: limit, entries: make(map[ID]*entry[ID, V]), used: list.New()}
}

// Get returns the value of an ID whose time has not passed, and counts that as a use.
func (c *Cache[ID, V]) Get(id ID) (value V, ok bool) {
	e := c.entries[id]
	switch {
	case e == nil:
		return value, false
	case !time.Now().Before(e.ends):
		c.drop(e)
		return value, false
	}
	c.used.MoveToFront(e.element)
	return e.value, true
}

// Put keeps a value until a time, in place of the one that the ID had. If that time has passed or
// the Cache is closed, Put closes the value.
func (c *Cache[ID, V]) Put(id ID, value V, ends time.Time) {
	c.Drop(id)
	e := &entry[ID, V]{id: id, value: value, ends: ends}
	if c.closed || !time.Now().Before(ends) {
		e.close()
		return
	}
	c.entries[id], e.element = e, c.used.PushFront(e)
	e.expiry = time.AfterFunc(time.Until(ends), func() {
		c.lock.Lock()
		defer c.lock.Unlock()
		if c.entries[id] == e {
			c.drop(e)
		}
	})
	if c.used.Len() > c.limit {
		c.drop(c.used.Back().Value.(*entry[ID, V]))
	}
}

// Drop drops the value of an ID, if there is one.
func (c *Cache[ID, V]) Drop(id ID) {
	if e := c.entries[id]; e != nil {
		c.drop(e)
	}
}

func (c *Cache[ID, V]) drop(e *entry[ID, V]) {
	delete(c.entries, e.id)
	c.used.Remove(e.element)
	e.expiry.Stop()
	e.close()
}

func (e *entry[ID, V]) close() {
	_ = e.value.Close() // its error concerns the process's memory, and no caller
}

// DropFunc drops the values of the IDs for which drops returns true.
func (c *Cache[ID, V]) DropFunc(drops func(ID) bool) {
	for id, e := range c.entries {
		if drops(id) {
			c.drop(e)
		}
	}
}

// Close drops all values, and closes each that is put from now on.
func (c *Cache[ID, V]) Close() {
	c.closed = true
	c.DropFunc(func(ID) bool { return true })
}
