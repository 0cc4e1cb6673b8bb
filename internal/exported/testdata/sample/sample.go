package sample

import "sync"

const Shown, hidden = 1, 2

var ErrShown, errHidden error

type Box[T any] struct {
	*sync.Mutex
	inner
	Content T
	secret  T
}

type inner struct{ Length int }

type Port interface {
	sync.Locker
	Do()
	do()
}

type Name string

func (b *Box[T]) Open()  {}
func (b Box[T]) close()  {}
func (i inner) Promote() {}

func New() {}
func old() {}
