package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler/calls"
)

const (
	statefulRole = "db"
	volumeID     = "ledger"
	volumeText   = "kept through it all"
)

// In one ACCEPT it reserves, creates a volume and launches a task that writes to it; when a file says so it launches another
// that reads it; then it destroys the volume and gives the reservation back. Its stage says what the next offer is for.
type stateful struct {
	*framework
	stage string
}

func (s *stateful) reserved() []mesos.Resource {
	role, principal, kind := statefulRole, "stateful", mesos.Resource_ReservationInfo_DYNAMIC
	reserve := func(name string, value float64) mesos.Resource {
		resource := scalar(name, value)
		resource.Reservations = []mesos.Resource_ReservationInfo{{Type: &kind, Role: &role, Principal: &principal}}
		return resource
	}
	return []mesos.Resource{reserve("cpus", 0.2), reserve("mem", 32), reserve("disk", 16)}
}

func (s *stateful) volume() mesos.Resource {
	principal, mode := "stateful", mesos.RW
	volume := s.reserved()[2]
	volume.Disk = &mesos.Resource_DiskInfo{
		Persistence: &mesos.Resource_DiskInfo_Persistence{ID: volumeID, Principal: &principal},
		Volume:      &mesos.Volume{Mode: &mode, ContainerPath: volumeID},
	}
	return volume
}

func (s *stateful) launch(offer mesos.Offer, id, command string) mesos.Offer_Operation {
	resources := append(s.reserved()[:2], s.volume())
	return calls.OpLaunch(mesos.TaskInfo{
		Name: id, TaskID: mesos.TaskID{Value: id}, AgentID: offer.AgentID,
		Command: &mesos.CommandInfo{Value: &command}, Resources: resources,
	})
}

func (s *stateful) answer(offer mesos.Offer) {
	hasVolume, isReserved := false, false
	for _, resource := range offer.Resources {
		hasVolume = hasVolume || resource.GetDisk().GetPersistence().GetID() == volumeID
		isReserved = isReserved || len(resource.GetReservations()) > 0
	}
	s.say("OFFER", fields{"agent": offer.AgentID.Value, "volume": hasVolume, "reserved": isReserved, "stage": s.stage})
	var operations []mesos.Offer_Operation
	switch {
	case s.stage == "write" && !isReserved:
		operations = []mesos.Offer_Operation{
			calls.OpReserve(s.reserved()...), calls.OpCreate(s.volume()),
			s.launch(offer, "writer", fmt.Sprintf("echo '%s' > %s/text", volumeText, volumeID)),
		}
		s.stage = "writing"
	case s.stage == "read" && hasVolume:
		operations = []mesos.Offer_Operation{
			s.launch(offer, "reader", fmt.Sprintf("grep -x '%s' %s/text", volumeText, volumeID)),
		}
		s.stage = "reading"
	case s.stage == "destroy" && hasVolume:
		operations = []mesos.Offer_Operation{calls.OpDestroy(s.volume()), calls.OpUnreserve(s.reserved()...)}
		s.stage = "destroying"
	case s.stage == "destroying" && !isReserved && !hasVolume:
		s.say("GONE", fields{"agent": offer.AgentID.Value})
		s.stage = "gone"
	}
	if len(operations) == 0 {
		s.attempt("DECLINE", calls.Decline(offer.ID).With(calls.RefuseSeconds(500*time.Millisecond)))
		return
	}
	accept := calls.Accept(calls.OfferOperations(operations).WithOffers(offer.ID))
	s.attempt("ACCEPT", accept.With(calls.RefuseSeconds(time.Millisecond)))
}

func (s *stateful) update(status mesos.TaskStatus) {
	id, state := status.TaskID.Value, status.GetState()
	s.say("UPDATE", fields{"task": id, "state": state.String(), "message": status.GetMessage()})
	if len(status.GetUUID()) > 0 {
		s.attempt("ACKNOWLEDGE", calls.Acknowledge(status.GetAgentID().GetValue(), id, status.GetUUID()))
	}
	switch state {
	case mesos.TASK_STAGING, mesos.TASK_STARTING, mesos.TASK_RUNNING:
	case mesos.TASK_FINISHED:
		if id == "writer" && s.stage == "writing" {
			s.say("WRITTEN", nil)
			s.stage = "written"
		} else if id == "reader" && s.stage == "reading" {
			s.say("READ", nil)
			s.stage = "destroy"
		}
	default:
		s.problem = fmt.Sprintf("%s is %s: %s", id, state, status.GetMessage())
	}
}

func (s *stateful) info() *mesos.FrameworkInfo {
	principal := "stateful"
	return &mesos.FrameworkInfo{
		User: "root", Name: "mesos-go-stateful", Principal: &principal, Roles: []string{statefulRole},
		FailoverTimeout: failoverTimeout,
		Capabilities: []mesos.FrameworkInfo_Capability{
			{Type: mesos.FrameworkInfo_Capability_MULTI_ROLE},
			{Type: mesos.FrameworkInfo_Capability_RESERVATION_REFINEMENT},
		},
	}
}

func (s *stateful) take(caller calls.Caller, master string, event *scheduler.Event) {
	switch event.GetType() {
	case scheduler.Event_SUBSCRIBED:
		s.caller = caller
		s.id = event.GetSubscribed().GetFrameworkID().Value
		s.say("SUBSCRIBED", fields{"framework_id": s.id, "master": master})
	case scheduler.Event_OFFERS:
		for _, offer := range event.GetOffers().GetOffers() {
			s.answer(offer)
		}
	case scheduler.Event_UPDATE:
		s.update(event.GetUpdate().GetStatus())
	case scheduler.Event_ERROR:
		s.problem = "the master said: " + event.GetError().GetMessage()
	}
}

func (s *stateful) run() {
	ctx, cancel := context.WithCancel(context.Background())
	go s.follow(ctx, s.info, s.take)
	deadline := time.Now().Add(time.Duration(*timeout * float64(time.Second)))
	well := s.until("the volume to be gone", deadline, func() bool {
		if s.stage == "written" {
			if _, err := os.Stat(*gate); *gate == "" || err == nil {
				s.stage = "read"
			}
		}
		return s.stage == "gone"
	}, func() {})
	if well {
		s.lock.Lock()
		well = s.attempt("TEARDOWN", teardown())
		s.lock.Unlock()
	}
	cancel()
	s.lock.Lock()
	defer s.lock.Unlock()
	s.say("SUMMARY", fields{"stage": s.stage, "problem": s.problem, "well": well})
	if !well {
		os.Exit(1)
	}
}
