//! The place: from its canonical form to the world that effects happen in, and back; what happens there without the
//! operator; and how it goes on with time.

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use serde_json::json;

use super::parts::{Fresh, Place, STANDS, Shift, Stored, now};
use super::rules::{HELD_UP, LINGERING, LIST_LAG, OVERLAP, Rules};
use super::space::Outline;
use crate::api::LLMKey;
use crate::controller::llm_key::world::{Request, World};

/// Which objects were written, as bits of [`Fresh`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written(pub u8);

/// What a person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Edit {
    /// Asks for a rotation.
    Rotate,
    /// Deletes the target Secret.
    DeleteTarget,
    /// Deletes the LLMKey.
    DeleteKey,
    /// Sets `desiredState: Revoked`.
    Revoke,
    /// Sets `desiredState: Active` again.
    Activate,
    /// Creates an LLMKey of the same name.
    CreateAgain,
    /// Writes another value into the target Secret.
    OverwriteTarget,
}

impl Edit {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::Rotate,
        Self::DeleteTarget,
        Self::DeleteKey,
        Self::Revoke,
        Self::Activate,
        Self::CreateAgain,
        Self::OverwriteTarget,
    ];

    /// As a sentence.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Rotate => "A person asks for a rotation (llmkeys.dev/rotate).",
            Self::DeleteTarget => "A person deletes the target Secret.",
            Self::DeleteKey => "A person deletes the LLMKey.",
            Self::Revoke => "A person sets desiredState: Revoked.",
            Self::Activate => "A person sets desiredState: Active again.",
            Self::CreateAgain => "A person creates an LLMKey of the same name.",
            Self::OverwriteTarget => "A person overwrites the target Secret.",
        }
    }
}

impl Rules {
    /// An LLMKey that was just created, and nothing else.
    pub fn empty_place(&self) -> Place {
        let world = self.base();
        let key = self.created().map(|key| Arc::new(canonical_key(key.clone())));
        Place {
            key,
            ledger: None,
            target: None,
            keys: Vec::new(),
            late: None,
            names: std::collections::BTreeSet::new(),
            retired: std::collections::BTreeMap::new(),
            published: 0,
            slots: world.provider.slots,
            holder: None,
        }
    }

    /// The world at a place.
    pub fn world(&self, place: &Place) -> World {
        let mut world = self.base();
        world.count = STANDS;
        world.key = place.key.as_ref().map(|key| key.value.clone());
        world.ledger = place.ledger.as_ref().map(|ledger| (**ledger).clone());
        world.target.clone_from(&place.target);
        world.provider.keys.clone_from(&place.keys);
        world.history.names.clone_from(&place.names);
        world.history.retired.clone_from(&place.retired);
        world.history.published = place.published;
        world.provider.slots.clone_from(&place.slots);
        world.holder.clone_from(&place.holder);
        world
    }

    /// The place that a world has become, and what was written.
    pub fn place(world: World, before: &Place) -> (Place, Written) {
        let mut written = 0;
        let standing = STANDS.to_string();
        let key = match (world.key, &before.key) {
            (Some(key), Some(old)) if key.metadata.resource_version.as_ref() == Some(&standing) => {
                Some(Arc::clone(old))
            }
            (key, old) => {
                if key.is_some() || old.is_some() {
                    written |= Fresh::KEY;
                }
                key.map(|key| Arc::new(canonical_key(key)))
            }
        };
        let ledger = match (world.ledger, &before.ledger) {
            (Some(ledger), Some(old)) if ledger.resource_version == standing => Some(Arc::clone(old)),
            (ledger, old) => {
                if ledger.is_some() || old.is_some() {
                    written |= Fresh::LEDGER;
                }
                ledger.map(|mut ledger| {
                    ledger.resource_version.clone_from(&standing);
                    ledger.uid = "ledger".into();
                    ledger.record.epoch = 0;
                    Arc::new(ledger)
                })
            }
        };
        let mut target = world.target;
        let version = |target: &Option<_>| {
            target.as_ref().map(|t: &crate::controller::llm_key::world::Target| t.resource_version)
        };
        if version(&target) != version(&before.target) {
            written |= Fresh::TARGET;
        }
        if let Some(target) = &mut target {
            target.resource_version = STANDS;
        }
        let mut keys = world.provider.keys;
        keys.retain(|key| key.revoked.is_none_or(|at| now() < at + Duration::seconds(LINGERING)));
        let mut place = Place {
            key,
            ledger,
            target,
            keys,
            late: before.late.clone(),
            names: world.history.names,
            retired: world.history.retired,
            published: world.history.published,
            slots: world.provider.slots,
            holder: world.holder,
        };
        if place.ledger.is_none() && before.ledger.is_some() {
            // The next ledger of the name begins anew. Its mint names differ from the old ones by chance, which the model has not.
            place.names.clear();
            place.retired.clear();
            place.published = 0;
        }
        Shift::CUT.place(&mut place);
        place.keys.sort();
        (place, Written(written))
    }

    /// What a person does. None: it cannot be done here, or changes nothing.
    pub fn edit(&self, place: &Place, edit: Edit) -> Option<(Place, Written)> {
        let key = place.key.as_ref().map(|key| &key.value);
        let alive = key.is_some_and(|key| key.metadata.deletion_timestamp.is_none());
        let revoked = key.is_some_and(|key| key.spec.desired_state == crate::api::DesiredState::Revoked);
        let mut world = self.world(place);
        match edit {
            Edit::Rotate if alive && !revoked => world.rotate(&token(key)?),
            Edit::DeleteTarget if place.target.is_some() => world.target = None,
            Edit::DeleteKey if alive => world.delete(),
            Edit::Revoke if alive && !revoked => desire(&mut world, "Revoked"),
            Edit::Activate if alive && revoked => desire(&mut world, "Active"),
            Edit::CreateAgain if key.is_none() => {
                let spec = serde_json::to_value(&self.created()?.spec).ok()?;
                world.create(&spec);
            }
            Edit::OverwriteTarget => {
                let version = world.next();
                let target = world.target.as_mut()?;
                target.resource_version = version;
                "overwritten".clone_into(&mut target.bytes);
            }
            _ => return None,
        }
        Some(Self::place(world, place))
    }

    /// The garbage collector takes away what a deleted LLMKey owned.
    pub fn collect_garbage(&self, place: &Place) -> Option<(Place, Written)> {
        let mut world = self.world(place);
        world.collect_garbage();
        let (after, written) = Self::place(world, place);
        (written.0 != 0).then_some((after, written))
    }

    /// The second copy of a request to mint arrives.
    pub fn arrive(&self, place: &Place) -> Option<(Place, Option<String>)> {
        let (request, _) = place.late.as_ref()?;
        let mut world = self.world(place);
        world.make(request, 2);
        let broken = world.judge().err();
        let (mut after, _) = Self::place(world, place);
        after.late = None;
        Some((after, broken))
    }

    /// The only copy of a request to mint arrives, late.
    pub fn deliver(&self, place: &Place, name: &str) -> Place {
        let mut world = self.world(place);
        world.make(&Request { name: name.to_owned(), bytes: None, slot: None, id: None }, 1);
        Self::place(world, place).0
    }

    /// An hour has gone by, as far as the budget of one goes: what was made before does not count any more.
    pub fn an_hour_later(place: &Place) -> Option<Place> {
        let mut ledger = place.ledger.clone().filter(|ledger| !ledger.record.mints.is_empty())?;
        Arc::make_mut(&mut ledger).record.mints.clear();
        Some(Place { ledger: Some(ledger), ..place.clone() })
    }

    /// A sweep revokes a key.
    pub fn sweep(place: &Place, id: &str) -> Place {
        let mut place = place.clone();
        for key in place.keys.iter_mut().filter(|key| key.id == id) {
            key.revoked.get_or_insert(now());
        }
        place.keys.sort();
        place
    }

    /// The place a while later.
    pub fn later(place: &Place, by: Duration) -> Place {
        let mut place = place.clone();
        Shift(by).place(&mut place);
        place.keys.retain(|key| key.revoked.is_none_or(|at| now() < at + Duration::seconds(LINGERING)));
        place.keys.sort();
        place
    }
}

impl Place {
    /// What of it matters for states that hold it.
    pub fn outline(&self) -> Outline {
        let live = self.live();
        let sent = self.late.as_ref().map(|(_, sent)| *sent);
        Outline {
            attempts: self.ledger.as_ref().map_or(0, |ledger| ledger.record.attempt),
            live: u8::try_from(live).unwrap_or(u8::MAX),
            orphaned: live > 0 && self.ledger.is_none(),
            next: self.next_moment().map_or(0, ahead),
            patience: sent.map_or(u8::MAX, |sent| ahead(sent + Duration::seconds(HELD_UP))),
        }
    }

    /// The next moment at which something changes here by itself.
    fn next_moment(&self) -> Option<DateTime<Utc>> {
        let after = |time: DateTime<Utc>, wait: i64| time + Duration::seconds(wait);
        let keys = self.keys.iter().flat_map(|key| {
            let listed = after(key.made, LIST_LAG);
            [Some(listed), key.revoked.map(|at| after(at, LINGERING))]
        });
        let target = self.target.iter().flat_map(|target| [target.written, after(target.written, OVERLAP)]);
        let released =
            self.ledger.iter().filter_map(|l| l.record.released.as_ref()).map(|r| r.revoke_not_before);
        keys.flatten().chain(target).chain(released).filter(|at| *at > now()).min()
    }
}

/// Whole seconds from now.
pub fn ahead(at: DateTime<Utc>) -> u8 {
    u8::try_from((at - now()).num_seconds().max(0)).unwrap_or(u8::MAX)
}

/// A token that was not used before.
fn token(key: Option<&LLMKey>) -> Option<String> {
    let annotations = key?.metadata.annotations.as_ref();
    Some(match annotations.and_then(|a| a.get(crate::api::ROTATE)) {
        None => "first".to_owned(),
        Some(before) => format!("{before}-again"),
    })
}

fn desire(world: &mut World, state: &str) {
    if let Ok(state) = serde_json::from_value(json!(state)) {
        world.edit(|key| key.spec.desired_state = state);
    }
}

fn canonical_key(mut key: LLMKey) -> Stored<LLMKey> {
    let long_ago = crate::api::to_k8s(now() - Duration::seconds(super::parts::OLD));
    key.metadata.resource_version = Some(STANDS.to_string());
    if let Some(deleted) = &mut key.metadata.deletion_timestamp {
        *deleted = long_ago.clone();
    }
    key.metadata.creation_timestamp = Some(long_ago);
    Stored::new(key)
}
