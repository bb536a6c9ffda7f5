// A framework on the mesos-go v1 library, in protobuf: launches short tasks and long ones, sees every state of each,
// reconciles, kills the long ones, tears itself down.
//
// Prints (or writes to --output) one JSON object for each event of interest, then a summary. Exit code 0 only if all
// went as it should.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/ioutil"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/encoding/codecs"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli/httpsched"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler/calls"
)

const (
	cpus = 0.1
	mem  = 32.0
)

var (
	masters         = flag.String("masters", "127.0.0.1:5050", "HOST:PORT,...: the first; others when it is lost")
	taskCount       = flag.Int("tasks", 200, "short tasks that must finish")
	longCount       = flag.Int("long", 5, "long tasks that are killed in the end")
	command         = flag.String("command", "true", "of a short task; {id} stands for its id")
	perOffer        = flag.Int("per_offer", 25, "how many tasks to put on one offer")
	checkpoint      = flag.Bool("checkpoint", false, "FrameworkInfo.checkpoint")
	failoverTimeout = flag.Float64("failover_timeout", 3600, "FrameworkInfo.failover_timeout")
	frameworkID     = flag.String("framework_id", "", "subscribe as this framework")
	timeout         = flag.Float64("timeout", 240, "seconds until it gives up")
	mode            = flag.String("mode", "tasks", "tasks, or stateful: reserve, create, launch on a volume, destroy")
	gate            = flag.String("gate", "", "stateful: the volume is read once this file is there")
	authority       = flag.String("ca", "", "speak TLS to masters whose certificates this file's authority signed")
	principal       = flag.String("principal", "", "who it is, to masters that ask")
	secret          = flag.String("secret", "", "the principal's secret")
	outputFile      = flag.String("output", "", "file for the lines, instead of stdout")
)

type task struct {
	id, command string
	states      []mesos.TaskState // As they came, without what was delivered again.
	launchedAt  time.Time
}

func (t *task) state() mesos.TaskState {
	if len(t.states) == 0 {
		return mesos.TASK_STAGING
	}
	return t.states[len(t.states)-1]
}

func (t *task) over() bool {
	switch t.state() {
	case mesos.TASK_STAGING, mesos.TASK_STARTING, mesos.TASK_RUNNING, mesos.TASK_KILLING, mesos.TASK_UNREACHABLE:
		return false
	}
	return true
}

// A framework's state, under one lock; the stream and the plan of work run beside each other.
type framework struct {
	lock        sync.Mutex
	output      io.Writer
	list        []string
	caller      calls.Caller
	id          string
	short, long []*task
	tasks       map[string]*task
	waiting     []*task
	uuids       map[string]bool
	reconciled  map[string]map[mesos.TaskState]bool
	problem     string

	updates, duplicates, relaunched, endsAfterTheEnd, subscribed int
}

type fields map[string]interface{}

func (f *framework) say(event string, more fields) {
	if more == nil {
		more = fields{}
	}
	more["event"] = event
	line, _ := json.Marshal(more)
	fmt.Fprintf(f.output, "%s\n", line)
}

// attempt makes a call; when it fails the stream's end follows, or the call is made again.
func (f *framework) attempt(name string, call *scheduler.Call) bool {
	if f.caller == nil {
		return false
	}
	response, err := f.caller.Call(context.Background(), call.With(calls.Framework(f.id)))
	if response != nil {
		response.Close()
	}
	if err != nil {
		f.say("CALL_FAILED", fields{"call": name, "problem": err.Error()})
	}
	return err == nil
}

// subscribe follows one stream to its end; take hears each event under the lock.
func (f *framework) subscribe(ctx context.Context, master string, info *mesos.FrameworkInfo, take taker) error {
	scheme, options := "http", []httpcli.ConfigOpt{httpcli.Timeout(20 * time.Second)}
	if *authority != "" {
		pem, err := ioutil.ReadFile(*authority)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		scheme, options = "https", append(options, httpcli.TLSConfig(&tls.Config{RootCAs: roots}))
	}
	if *principal != "" {
		options = append(options, httpcli.BasicAuth(*principal, *secret))
		info.Principal = principal
	}
	caller := httpsched.NewCaller(httpcli.New(
		httpcli.Endpoint(scheme+"://"+master+"/api/v1/scheduler"),
		httpcli.Codec(codecs.ByMediaType[codecs.MediaTypeProtobuf]),
		httpcli.Do(httpcli.With(options...)),
	))
	call := calls.Subscribe(info)
	f.lock.Lock()
	if f.id != "" {
		info.ID = &mesos.FrameworkID{Value: f.id}
		call = call.With(calls.SubscribeTo(f.id))
	}
	f.lock.Unlock()
	stream, err := caller.Call(ctx, call)
	if stream != nil {
		defer stream.Close()
	}
	if err != nil {
		return err
	}
	for {
		var event scheduler.Event
		if err := stream.Decode(&event); err != nil {
			return err
		}
		f.lock.Lock()
		take(caller, master, &event)
		f.lock.Unlock()
	}
}

type taker func(caller calls.Caller, master string, event *scheduler.Event)

// follow subscribes at one master after the other until ctx ends.
func (f *framework) follow(ctx context.Context, info func() *mesos.FrameworkInfo, take taker) {
	for place := 0; ctx.Err() == nil; place++ {
		master := f.list[place%len(f.list)]
		err := f.subscribe(ctx, master, info(), take)
		f.lock.Lock()
		f.caller = nil
		f.say("DISCONNECTED", fields{"master": master, "problem": fmt.Sprint(err)})
		f.lock.Unlock()
		time.Sleep(300 * time.Millisecond)
	}
}

func (f *framework) take(caller calls.Caller, master string, event *scheduler.Event) {
	switch event.GetType() {
	case scheduler.Event_SUBSCRIBED:
		again := f.id != ""
		f.caller = caller
		f.id = event.GetSubscribed().GetFrameworkID().Value
		f.subscribed++
		f.say("SUBSCRIBED", fields{"framework_id": f.id, "master": master, "again": again})
		open := map[string]string{}
		for _, t := range f.tasks {
			if !t.launchedAt.IsZero() && !t.over() {
				open[t.id] = ""
			}
		}
		if len(open) > 0 {
			f.attempt("RECONCILE", calls.Reconcile(calls.ReconcileTasks(open)))
		}
	case scheduler.Event_OFFERS:
		for _, offer := range event.GetOffers().GetOffers() {
			f.answer(offer)
		}
	case scheduler.Event_UPDATE:
		f.update(event.GetUpdate().GetStatus())
	case scheduler.Event_ERROR:
		f.problem = "the master said: " + event.GetError().GetMessage()
		f.say("ERROR", fields{"message": event.GetError().GetMessage()})
	case scheduler.Event_RESCIND:
		f.say("RESCIND", fields{"offer": event.GetRescind().GetOfferID().Value})
	case scheduler.Event_FAILURE:
		f.say("FAILURE", fields{"agent": event.GetFailure().GetAgentID().GetValue()})
	}
}

func (f *framework) answer(offer mesos.Offer) {
	have := map[string]float64{}
	for _, resource := range offer.Resources {
		have[resource.GetName()] += resource.GetScalar().GetValue()
	}
	room := int(have["cpus"]/cpus + 1e-6)
	if byMem := int(have["mem"] / mem); byMem < room {
		room = byMem
	}
	if *perOffer < room {
		room = *perOffer
	}
	if len(f.waiting) < room {
		room = len(f.waiting)
	}
	if room == 0 {
		refuse := 2 * time.Second
		if len(f.waiting) > 0 {
			refuse = 500 * time.Millisecond
		}
		f.attempt("DECLINE", calls.Decline(offer.ID).With(calls.RefuseSeconds(refuse)))
		return
	}
	batch := f.waiting[:room]
	f.waiting = append([]*task(nil), f.waiting[room:]...)
	infos := []mesos.TaskInfo{}
	for _, t := range batch {
		t.launchedAt = time.Now()
		value := t.command
		infos = append(infos, mesos.TaskInfo{
			Name:      t.id,
			TaskID:    mesos.TaskID{Value: t.id},
			AgentID:   offer.AgentID,
			Command:   &mesos.CommandInfo{Value: &value},
			Resources: []mesos.Resource{scalar("cpus", cpus), scalar("mem", mem)},
		})
	}
	f.say("ACCEPT", fields{"tasks": room, "agent": offer.AgentID.Value, "scheme": offer.URL.GetScheme()})
	accept := calls.Accept(calls.OfferOperations{calls.OpLaunch(infos...)}.WithOffers(offer.ID))
	f.attempt("ACCEPT", accept.With(calls.RefuseSeconds(100*time.Millisecond)))
}

func scalar(name string, value float64) mesos.Resource {
	kind := mesos.SCALAR
	return mesos.Resource{Name: name, Type: &kind, Scalar: &mesos.Value_Scalar{Value: value}}
}

func (f *framework) update(status mesos.TaskStatus) {
	id, state, uuid := status.TaskID.Value, status.GetState(), hex.EncodeToString(status.GetUUID())
	f.say("UPDATE", fields{
		"task": id, "state": state.String(), "uuid": uuid, "message": status.GetMessage(),
		"reason": status.GetReason().String(),
	})
	if len(status.GetUUID()) > 0 {
		f.attempt("ACKNOWLEDGE", calls.Acknowledge(status.GetAgentID().GetValue(), id, status.GetUUID()))
	}
	reason := mesos.TaskStatus_Reason(-1)
	if status.Reason != nil {
		reason = *status.Reason
	}
	if reason == mesos.REASON_RECONCILIATION {
		if f.reconciled[id] == nil {
			f.reconciled[id] = map[mesos.TaskState]bool{}
		}
		f.reconciled[id][state] = true
	}
	t := f.tasks[id]
	if t == nil {
		return
	}
	if state == mesos.TASK_LOST && (reason == mesos.REASON_RECONCILIATION || reason == mesos.REASON_INVALID_OFFERS) {
		// It was never started: its ACCEPT was lost with a master, or came after its offer's end.
		if len(t.states) == 0 && !t.launchedAt.IsZero() {
			f.relaunched++
			t.launchedAt = time.Time{}
			f.waiting = append(f.waiting, t)
			f.attempt("REVIVE", calls.Revive())
		}
		return
	}
	if uuid == "" {
		return
	}
	if f.uuids[uuid] {
		f.duplicates++
		return
	}
	f.uuids[uuid] = true
	f.updates++
	if t.over() {
		f.endsAfterTheEnd++
	}
	t.states = append(t.states, state)
}

// until waits for done; calls again every 3 s meanwhile, for calls that a dying master may have lost.
func (f *framework) until(what string, deadline time.Time, done func() bool, again func()) bool {
	repeat := time.Now().Add(3 * time.Second)
	for {
		f.lock.Lock()
		if f.problem != "" {
			f.lock.Unlock()
			return false
		}
		if done() {
			f.lock.Unlock()
			return true
		}
		if time.Now().After(deadline) {
			f.problem = "waited in vain for " + what
			f.lock.Unlock()
			return false
		}
		if time.Now().After(repeat) {
			again()
			repeat = time.Now().Add(3 * time.Second)
		}
		f.lock.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
}

func all(tasks []*task, holds func(*task) bool) bool {
	for _, t := range tasks {
		if !holds(t) {
			return false
		}
	}
	return true
}

// reconcileSilent asks for tasks without any update a while after their ACCEPT: it may have been lost.
func (f *framework) reconcileSilent() {
	silent := map[string]string{}
	for _, t := range f.tasks {
		if !t.launchedAt.IsZero() && len(t.states) == 0 && time.Since(t.launchedAt) > 5*time.Second {
			silent[t.id] = ""
		}
	}
	if len(silent) > 0 {
		f.attempt("RECONCILE", calls.Reconcile(calls.ReconcileTasks(silent)))
	}
}

func (f *framework) work() (tornDown bool) {
	deadline := time.Now().Add(time.Duration(*timeout * float64(time.Second)))
	if !f.until("all short tasks to end and all long ones to run", deadline, func() bool {
		return all(f.short, (*task).over) &&
			all(f.long, func(t *task) bool { return t.state() == mesos.TASK_RUNNING || t.over() })
	}, f.reconcileSilent) {
		return false
	}

	// Implicit: all that is known. Explicit: what is named, known or not.
	named := map[string]string{"nosuch": ""}
	for _, t := range f.long {
		named[t.id] = ""
	}
	for how, tasks := range map[string]map[string]string{"implicit": {}, "explicit": named} {
		ask := func() { f.attempt("RECONCILE", calls.Reconcile(calls.ReconcileTasks(tasks))) }
		f.lock.Lock()
		f.reconciled = map[string]map[mesos.TaskState]bool{}
		ask()
		f.lock.Unlock()
		if !f.until(how+" reconciliation", deadline, func() bool {
			return all(f.long, func(t *task) bool { return f.reconciled[t.id][mesos.TASK_RUNNING] }) &&
				(how == "implicit" || f.reconciled["nosuch"][mesos.TASK_LOST])
		}, ask) {
			return false
		}
		f.say("RECONCILED", fields{"how": how})
	}

	kill := func() {
		for _, t := range f.long {
			if !t.over() {
				f.attempt("KILL", calls.Kill(t.id, ""))
			}
		}
	}
	f.lock.Lock()
	kill()
	f.lock.Unlock()
	if !f.until("all long tasks to be killed", deadline, func() bool { return all(f.long, (*task).over) }, kill) {
		return false
	}
	f.until("TEARDOWN to be accepted", deadline, func() bool {
		if !tornDown {
			tornDown = f.attempt("TEARDOWN", teardown())
		}
		return tornDown
	}, func() {})
	return tornDown
}

func main() {
	flag.Parse()
	f := &framework{
		output: os.Stdout, list: strings.Split(*masters, ","), id: *frameworkID,
		tasks: map[string]*task{}, uuids: map[string]bool{}, reconciled: map[string]map[mesos.TaskState]bool{},
	}
	if *outputFile != "" {
		file, err := os.Create(*outputFile)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		f.output = file
	}
	if *mode == "stateful" {
		(&stateful{framework: f, stage: "write"}).run()
		return
	}
	for n := 0; n < *longCount; n++ {
		f.long = append(f.long, &task{id: fmt.Sprintf("long-%d", n), command: "sleep 1000"})
	}
	for n := 0; n < *taskCount; n++ {
		id := fmt.Sprintf("short-%d", n)
		f.short = append(f.short, &task{id: id, command: strings.ReplaceAll(*command, "{id}", id)})
	}
	f.waiting = append(append([]*task(nil), f.long...), f.short...)
	for _, t := range f.waiting {
		f.tasks[t.id] = t
	}

	ctx, cancel := context.WithCancel(context.Background())
	go f.follow(ctx, func() *mesos.FrameworkInfo {
		return &mesos.FrameworkInfo{
			User: "root", Name: "mesos-go", Checkpoint: checkpoint, FailoverTimeout: failoverTimeout,
		}
	}, f.take)
	tornDown := f.work()
	cancel()
	f.lock.Lock()
	defer f.lock.Unlock()

	ended := map[mesos.TaskState]int{}
	incomplete := []string{}
	for _, t := range f.tasks {
		ended[t.state()]++
		if len(t.states) != 3 || t.states[0] != mesos.TASK_STARTING || t.states[1] != mesos.TASK_RUNNING {
			incomplete = append(incomplete, t.id)
		}
	}
	well := f.problem == "" && tornDown && ended[mesos.TASK_FINISHED] == *taskCount &&
		ended[mesos.TASK_KILLED] == *longCount && len(incomplete) == 0 && f.endsAfterTheEnd == 0
	f.say("SUMMARY", fields{
		"updates": f.updates, "duplicates": f.duplicates, "relaunched": f.relaunched, "subscribed": f.subscribed,
		"ends_after_the_end": f.endsAfterTheEnd, "finished": ended[mesos.TASK_FINISHED],
		"failed": ended[mesos.TASK_FAILED], "killed": ended[mesos.TASK_KILLED], "lost": ended[mesos.TASK_LOST],
		"incomplete": incomplete, "torn_down": tornDown, "problem": f.problem, "well": well,
	})
	if !well {
		os.Exit(1)
	}
}

func teardown() *scheduler.Call {
	return &scheduler.Call{Type: scheduler.Call_TEARDOWN}
}
