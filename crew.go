package backup

import (
	"context"
	"runtime"
	"sync"
)

// A crew does the work of one operation side by side, on as many cores as
// there are. What is the host's to be called, such as Config.Progress, its
// members hand back to the goroutine of the operation, which alone may call
// run, start, wait and dismiss.
type crew struct {
	slots chan struct{} // holds one for each member at work; nil: who has work does it
	calls chan func()   // for the goroutine of the operation
	gone  chan struct{} // closed once that answers no more calls
	all   sync.WaitGroup
}

// newCrew returns a crew of so many. One alone does all in one order.
func newCrew(size int) *crew {
	c := &crew{gone: make(chan struct{})}
	if size > 1 {
		c.slots = make(chan struct{}, size)
		c.calls = make(chan func(), size)
	}
	return c
}

// cores is how many cores there are for what is done with the files below d.
// File systems that are not the operating system's may not be made for more
// than one.
func (d *dir) cores() int {
	if !d.native {
		return 1
	}
	return runtime.GOMAXPROCS(0)
}

// size is how many may work at a time.
func (c *crew) size() int { return max(1, cap(c.slots)) }

// run has begin start all the work, and waits for it. What begin returns, or
// fail is told, ends all, also what does not depend on it; the first such error
// is returned.
func (c *crew) run(ctx context.Context, begin func(ctx context.Context, fail func(error)) error) error {
	inner, fail := context.WithCancelCause(ctx)
	defer c.dismiss()
	defer fail(nil)
	if err := begin(inner, fail); err != nil {
		fail(err)
	} else {
		c.wait()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return context.Cause(inner)
}

// start has work done by the next member that is free.
func (c *crew) start(work func()) {
	if c.slots == nil {
		work()
		return
	}
	for {
		select {
		case c.slots <- struct{}{}:
			c.all.Go(func() {
				defer func() { <-c.slots }()
				defer c.handPanic()
				work()
			})
			return
		case call := <-c.calls:
			call()
		}
	}
}

// wait answers calls until all work is done.
func (c *crew) wait() {
	done := c.done()
	for {
		select {
		case call := <-c.calls:
			call()
			continue
		case <-done:
		}
		select {
		case call := <-c.calls: // made last of all
			call()
		default:
			return
		}
	}
}

// dismiss waits for the end of work that has been cancelled, and answers no
// calls.
func (c *crew) dismiss() {
	close(c.gone)
	<-c.done()
}

func (c *crew) done() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		c.all.Wait()
		close(done)
	}()
	return done
}

// call has the goroutine of the operation call fn, some time.
func (c *crew) call(fn func()) {
	if c.slots == nil {
		fn()
		return
	}
	select {
	case c.calls <- fn:
	case <-c.gone:
	}
}

// callAndWait has the goroutine of the operation call fn now. It reports
// whether that came to its end; if fn panics, so does callAndWait.
func (c *crew) callAndWait(fn func()) bool {
	if c.slots == nil {
		fn()
		return true
	}
	done := make(chan struct{})
	var panicked any
	c.call(func() {
		defer func() {
			panicked = recover()
			close(done)
		}()
		fn()
	})
	select {
	case <-done:
	case <-c.gone:
		return false
	}
	if panicked != nil {
		panic(panicked)
	}
	return true
}

// handPanic has the goroutine of the operation panic in the place of a member:
// there the host can recover. If that has given up for another reason, nobody
// is told.
func (c *crew) handPanic() {
	if p := recover(); p != nil {
		c.call(func() { panic(p) })
	}
}

// together does all tasks, and returns when they are done. Called by a member,
// it has others help that are free.
func (c *crew) together(tasks ...func()) {
	next := make(chan func(), len(tasks))
	for _, task := range tasks {
		next <- task
	}
	close(next)
	work := func() {
		for task := range next {
			task()
		}
	}
	var helpers sync.WaitGroup
	over := make(chan struct{})
	for range min(len(tasks), cap(c.slots)) - 1 {
		helpers.Go(func() {
			select {
			case c.slots <- struct{}{}:
				defer func() { <-c.slots }()
				defer c.handPanic()
				work()
			case <-over:
			}
		})
	}
	defer func() { // also in a panic
		close(over)
		if c.slots != nil {
			<-c.slots // a helper may wait for this slot: it is lent, and taken back
			defer func() { c.slots <- struct{}{} }()
		}
		helpers.Wait()
	}()
	work()
}
