//! The steps of the whole cluster, and what must hold in every state.

use stateright::{Model, Property};

use crate::{
    candidate::EPOCHS_PER_MEMBERSHIP,
    rule::Rule,
    setup::Setup,
    state::{Ask, Deed, Event, Gain, Hold, Node, NodeAt, Offer, Owner, Promise, State},
    step::Step,
};

/// At every instant at most one kernel lets traffic of the VIP pass.
pub const ONE_OWNER: &str = "one owner";
/// Whoever arms the VIP does so under a higher epoch than everyone before.
pub const EPOCHS_GROW: &str = "epochs grow";
/// Wherever things stand, once every process runs and every datagram arrives, the VIP gets an owner.
pub const HEALS: &str = "an owner is found when all is well";

/// The protocol on a cluster, with all rules kept or all but one.
#[derive(Clone, Debug)]
pub struct LeaseModel {
    pub(crate) setup: Setup,
    broken: Option<Rule>,
}

impl LeaseModel {
    /// The protocol as it is, or with one rule broken.
    pub fn new(setup: Setup, broken: Option<Rule>) -> Self {
        Self { setup, broken }
    }

    /// Whether `rule` is kept.
    pub(crate) fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    fn candidates(&self) -> impl Iterator<Item = NodeAt> + '_ {
        (0..self.setup.nodes).filter(|node| self.setup.candidates & 1 << node != 0)
    }

    fn tick(&self, state: &mut State) -> Option<()> {
        for node in &mut state.nodes {
            self.tick_node(node);
        }
        for ask in &mut state.asks {
            ask.left = ask.left.saturating_sub(1);
        }
        if self.keeps(Rule::TimedFromAsking) {
            state.asks.retain(|ask| ask.left > 0);
        }
        for release in &mut state.releases {
            release.fresh = false;
        }
        Some(())
    }

    fn tick_node(&self, node: &mut Node) {
        for timer in [&mut node.gate, &mut node.quiet, &mut node.settle] {
            *timer = timer.saturating_sub(1);
        }
        node.promise = node.promise.and_then(|mut promise| {
            promise.left -= 1;
            (promise.left > 0).then_some(promise)
        });
        if self.keeps(Rule::AbsoluteDeadline) {
            for deed in &mut node.todo {
                if let Deed::Open { left, .. } = deed {
                    *left -= 1;
                }
            }
            // A deadline that has passed opens nothing.
            node.todo.retain(|deed| !matches!(deed, Deed::Open { left: 0, .. }));
        }
        if let Hold::Held { epoch, left, .. } = &mut node.hold {
            *left -= 1;
            if *left == 0 {
                let epoch = *epoch;
                node.closed(epoch);
            }
        }
    }

    fn offer(&self, state: &mut State, at: NodeAt, to: NodeAt) -> Option<()> {
        let offer = Offer { by: state.life(at), to: to as u8, accepted: false };
        let node = &state.nodes[at];
        let known = state.offers.iter().any(|known| (known.by, known.to) == (offer.by, offer.to));
        if at == to || known || state.releases_left == 0 || !node.todo.is_empty() {
            return None;
        }
        if !matches!(node.hold, Hold::Held { .. }) {
            return None;
        }
        state.offers.push(offer);
        Some(())
    }

    fn accept(&self, state: &mut State, offer: usize) -> Option<()> {
        let node = &state.nodes[usize::from(state.offers[offer].to)];
        if state.offers[offer].accepted || node.hold != Hold::Watching || node.settle > 0 || !node.todo.is_empty() {
            return None;
        }
        state.offers[offer].accepted = true;
        Some(())
    }

    fn hand_over(&self, state: &mut State, offer: usize) -> Option<()> {
        let Offer { by, to, accepted } = state.offers[offer];
        let at = usize::from(by.node);
        if !accepted || state.life(at) != by || !matches!(state.nodes[at].hold, Hold::Held { .. }) {
            return None;
        }
        self.give_up(state, at, Some(to))
    }

    fn hear_release(&self, state: &mut State, voter: NodeAt, release: usize) -> Option<()> {
        let release = state.releases[release];
        let node = &mut state.nodes[voter];
        if !node.todo.is_empty() {
            return None;
        }
        self.released(node, &release);
        Some(())
    }

    /// Lets everything go well from `state` on, and says whether that ends with exactly one owner:
    /// deeds are done, logs and views catch up, promises and silences end, and one candidate claims.
    fn heals(&self, state: &State) -> bool {
        let mut state = state.clone();
        for at in 0..self.setup.nodes {
            while self.perform(&mut state, at).is_some() {}
        }
        loop {
            for at in 0..self.setup.nodes {
                state.nodes[at].log = state.newest;
                self.view(&mut state, at);
                while self.perform(&mut state, at).is_some() {}
            }
            if self.change(&mut state).is_none() {
                break;
            }
        }
        for _ in 0..self.setup.right {
            self.tick(&mut state);
        }
        let Some(claimant) = self.candidates().last() else { return true };
        state.asks_left = 1;
        if self.ask(&mut state, claimant, true).or_else(|| self.ask(&mut state, claimant, false)).is_none() {
            return false;
        }
        let asked = state.asks.len() - 1;
        for voter in 0..self.setup.nodes {
            self.hear_ask(&mut state, voter, asked);
        }
        self.arm(&mut state, asked);
        while self.perform(&mut state, claimant).is_some() {}
        state.owners() == 1 && state.nodes[claimant].gate > 0
    }

    /// The last node owns the VIP by the first joint membership, which is in no other log yet. It asked a tick ago and was
    /// heard by all but the first node, which claims the VIP and has only its own grant.
    fn begin_changing(&self, state: &mut State) {
        let at = self.setup.nodes - 1;
        let (by, epoch, left) = (state.life(at), EPOCHS_PER_MEMBERSHIP + 1, self.setup.right - 1);
        for voter in &mut state.nodes[1..] {
            voter.promise = Some(Promise { to: by, epoch, left });
            (voter.highest, voter.highest_of) = (epoch, Some(by));
        }
        let (rival, claim, right) = (state.life(0), epoch + 1, self.setup.right);
        let voter = &mut state.nodes[0];
        voter.promise = Some(Promise { to: rival, epoch: claim, left: right });
        (voter.highest, voter.highest_of) = (claim, Some(rival));
        voter.hold = Hold::Claiming { epoch: claim };
        state.asks.push(Ask {
            by: rival,
            epoch: claim,
            view: 0,
            told: 0,
            sets: self.setup.sets_of(0),
            left: right,
            granted: 1,
        });
        let sets = self.setup.sets_of(1);
        let node = &mut state.nodes[at];
        (node.log, node.view, node.gate) = (1, 1, left);
        node.hold = Hold::Held { epoch, armed: epoch, left, sets, renewed: true };
        state.newest = 1;
        state.last = Some(Owner { who: by, epoch, view: 1 });
    }

    /// The next membership may be made once the newest is committed.
    fn change(&self, state: &mut State) -> Option<()> {
        let has_newest = |(at, node): (usize, &Node)| if node.log >= state.newest { 1 << at } else { 0 };
        let have = state.nodes.iter().enumerate().map(has_newest).fold(0, |all, bit| all | bit);
        let committed = self.setup.majority(have, self.setup.sets_of(state.newest));
        if state.newest >= self.setup.last_membership() || !committed {
            return None;
        }
        state.newest += 1;
        Some(())
    }
}

impl Model for LeaseModel {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            nodes: (0..self.setup.nodes).map(|_| Node::default()).collect(),
            asks: Default::default(),
            releases: Default::default(),
            offers: Default::default(),
            newest: 0,
            last: None,
            event: Event::Nothing,
            asks_left: self.setup.asks,
            restarts_left: self.setup.restarts,
            releases_left: self.setup.releases,
        };
        if self.setup.changing {
            self.begin_changing(&mut state);
        }
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps.push(Step::Tick);
        for node in self.candidates() {
            steps.extend([false, true].map(|informed| Step::Ask { node, informed }));
            if !self.setup.planned || matches!(state.nodes[node].hold, Hold::Claiming { .. }) {
                steps.push(Step::GiveUp(node));
            }
            if self.setup.planned {
                steps.extend(self.candidates().map(|to| Step::Offer { node, to }));
            }
        }
        for offer in 0..state.offers.len() {
            steps.extend([Step::Accept { offer }, Step::HandOver { offer }]);
        }
        steps.extend((0..state.asks.len()).map(|ask| Step::Arm { ask }));
        for voter in 0..self.setup.nodes {
            steps.extend((0..state.asks.len()).map(|ask| Step::HearAsk { voter, ask }));
            if state.newest > 0 {
                steps.extend((0..state.asks.len()).map(|ask| Step::HearNews { voter, ask }));
            }
            steps.extend((0..state.releases.len()).map(|release| Step::HearRelease { voter, release }));
        }
        for node in 0..self.setup.nodes {
            steps.extend([Step::Do(node), Step::Restart(node)]);
            // By what a node counts that asks for nothing makes no difference.
            if self.setup.candidates & 1 << node != 0 {
                steps.extend([Step::View(node), Step::Forget(node)]);
            }
            let newer = state.nodes[node].log + 1..=state.newest;
            steps.extend(newer.map(|membership| Step::Append { node, membership }));
        }
        if state.newest < self.setup.last_membership() {
            steps.push(Step::Change);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        next.event = Event::Nothing;
        let state = &mut next;
        match step {
            Step::Tick => self.tick(state),
            Step::Ask { node, informed } => self.ask(state, node, informed),
            Step::HearAsk { voter, ask } => self.hear_ask(state, voter, ask),
            Step::HearNews { voter, ask } => self.tell(state, voter, ask),
            Step::Forget(node) => self.forget(state, node),
            Step::Arm { ask } => self.arm(state, ask),
            Step::Do(node) => self.perform(state, node),
            Step::GiveUp(node) => self.give_up(state, node, None),
            Step::HearRelease { voter, release } => self.hear_release(state, voter, release),
            Step::Offer { node, to } => self.offer(state, node, to),
            Step::Accept { offer } => self.accept(state, offer),
            Step::HandOver { offer } => self.hand_over(state, offer),
            Step::Restart(node) => self.restart(state, node),
            Step::Change => self.change(state),
            Step::Append { node, membership } => {
                state.nodes[node].log = membership;
                Some(())
            }
            Step::View(node) => self.view(state, node),
        }?;
        next.tidy();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_OWNER, |_, state: &State| state.owners() <= 1),
            Property::always(EPOCHS_GROW, |_, state: &State| state.event != Event::EpochAgain),
            Property::sometimes("taken over from a silent owner", |_, state: &State| {
                how(state) == Some(Gain::FromSilent)
            }),
        ];
        if !self.setup.changing {
            properties.push(Property::sometimes("owned", |_, state: &State| how(state) == Some(Gain::First)));
        }
        if self.setup.heals {
            properties.push(Property::always(HEALS, Self::heals));
        }
        if self.setup.releases > 0 && !self.setup.planned {
            properties.push(Property::sometimes("taken over after a release", |_, state: &State| {
                how(state) == Some(Gain::FromReleased)
            }));
        }
        if self.setup.planned {
            properties
                .push(Property::sometimes("moved in no time", |_, state: &State| how(state) == Some(Gain::AtOnce)));
        }
        if self.setup.restarts > 0 {
            properties.push(Property::sometimes("taken over after a crash", |_, state: &State| {
                how(state) == Some(Gain::FromRestarted)
            }));
            properties
                .push(Property::sometimes("an epoch that a restarted voter forgot comes again", |_, state: &State| {
                    state.event == Event::EpochForgotten
                }));
        }
        if self.setup.sets.len() > 1 {
            properties.push(Property::sometimes("taken over after a membership change", |_, state: &State| {
                matches!(state.event, Event::Gained { how: Gain::FromSilent, changed: true })
            }));
            properties.push(Property::sometimes("renewed by what voters told", |_, state: &State| {
                state.event == Event::RenewedAsTold
            }));
        }
        properties
    }
}

fn how(state: &State) -> Option<Gain> {
    match state.event {
        Event::Gained { how, .. } => Some(how),
        _ => None,
    }
}
