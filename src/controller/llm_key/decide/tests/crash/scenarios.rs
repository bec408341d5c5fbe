//! The stories that are struck.

use serde_json::json;

use crate::api::LLMKey;
use crate::controller::llm_key::decide::tests::consumers::using;
use crate::controller::llm_key::decide::tests::driver::Event;
use crate::controller::llm_key::decide::tests::spare::{
    checked_every, sparing, withdraw_delivered, withdraw_spare,
};
use crate::controller::llm_key::decide::tests::world::{World, pool};
use crate::domain::evidence::WorkloadKind;
use crate::domain::health::Verdict;
use crate::provider::MintKind;

/// A scenario: the world at its beginning, what people do and when, and its end.
pub struct Scenario {
    pub name: &'static str,
    pub world: fn() -> World,
    pub events: &'static [Event],
    pub end: i64,
}

pub const HOUR: i64 = 3600;

fn create_again(world: &mut World) {
    let mut spec = json!({"providerRef": {"name": "openai"}, "source": {"mint": {}}});
    spec["validation"] = json!({"interval": "12h"});
    world.create(&spec);
}

/// The same at a provider that lets us choose the keys.
fn choosing(mut world: World) -> World {
    world.provider.mint = MintKind::CallerChosen;
    world
}

/// The same at a provider that lets us choose the keys' ids.
fn naming(mut world: World) -> World {
    world.provider.mint = MintKind::CallerNamed;
    world
}

fn full(mut world: World) -> World {
    world.provider.full = true;
    world
}

/// A request that was under way makes the key after all, and a person deletes it.
pub fn spend(world: &mut World) {
    if let Some(request) = World::request(world.record(), 1) {
        let id = world.make(&request, 1).id;
        let now = world.now;
        world.provider.keys.iter_mut().filter(|key| key.id == id).for_each(|key| key.revoked = Some(now));
    }
}

fn desire(world: &mut World, state: &str) {
    let state = serde_json::from_value(json!(state)).unwrap();
    world.edit(|key: &mut LLMKey| key.spec.desired_state = state);
}

fn burn(world: &mut World, versions: &[i32]) {
    world.edit(|key: &mut LLMKey| key.spec.revoked_versions = versions.to_vec());
}

fn pin(world: &mut World, version: Option<i32>) {
    world.edit(|key: &mut LLMKey| key.spec.pinned_version = version);
}

/// A minted key at a provider that can switch it off.
fn switching() -> World {
    let mut world = World::minting();
    world.provider.switches = true;
    world
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "disable",
        world: switching,
        events: &[(600, |w| desire(w, "Disabled"))],
        end: 8 * HOUR,
    },
    Scenario {
        name: "disable in an overlap and enable again",
        world: switching,
        events: &[
            (600, |w| w.rotate("now")),
            (700, |w| desire(w, "Disabled")),
            (3 * HOUR, |w| desire(w, "Active")),
        ],
        end: 9 * HOUR,
    },
    Scenario {
        name: "disable and delete",
        world: switching,
        events: &[(600, |w| desire(w, "Disabled")), (1200, World::delete)],
        end: 9 * HOUR,
    },
    Scenario { name: "create, minted", world: World::minting, events: &[], end: 6 * HOUR },
    Scenario { name: "create, chosen", world: World::choosing, events: &[], end: 6 * HOUR },
    Scenario {
        name: "rotate, chosen",
        world: World::choosing,
        events: &[(600, |w| w.rotate("now"))],
        end: 8 * HOUR,
    },
    Scenario { name: "create, unnamed", world: World::unnamed, events: &[], end: 6 * HOUR },
    Scenario {
        name: "rotate, unnamed",
        world: World::unnamed,
        events: &[(600, |w| w.rotate("now"))],
        end: 8 * HOUR,
    },
    Scenario {
        name: "rotate and delete, unnamed",
        world: World::unnamed,
        events: &[(600, |w| w.rotate("now")), (700, World::delete)],
        end: 9 * HOUR,
    },
    Scenario { name: "create, named", world: World::naming, events: &[], end: 6 * HOUR },
    Scenario {
        name: "rotate, named",
        world: World::naming,
        events: &[(600, |w| w.rotate("now"))],
        end: 8 * HOUR,
    },
    Scenario {
        name: "create and rotate with a spare, named",
        world: || naming(sparing()),
        events: &[(600, |w| w.rotate("now"))],
        end: 8 * HOUR,
    },
    Scenario {
        name: "delete in a mint, named",
        world: || full(World::naming()),
        events: &[(600, World::delete)],
        end: 9 * HOUR,
    },
    Scenario {
        name: "a wrong project is put right, named",
        world: || full(World::naming()),
        events: &[(600, |w| {
            w.project = "proj_2".into();
            w.provider.full = false;
        })],
        end: 6 * HOUR,
    },
    Scenario {
        name: "a person deletes a key that is being made, named",
        world: || full(World::naming()),
        events: &[(600, |w| {
            spend(w);
            w.provider.full = false;
        })],
        end: 6 * HOUR,
    },
    Scenario { name: "create, slots", world: World::slotting, events: &[], end: 6 * HOUR },
    Scenario {
        name: "rotate twice, slots",
        world: World::slotting,
        events: &[(600, |w| w.rotate("now")), (5 * HOUR, |w| w.rotate("again"))],
        end: 10 * HOUR,
    },
    Scenario {
        name: "delete in an overlap, slots",
        world: World::slotting,
        events: &[(600, |w| w.rotate("now")), (1200, World::delete)],
        end: 9 * HOUR,
    },
    Scenario {
        name: "create and rotate with a spare, chosen",
        world: || choosing(sparing()),
        events: &[(600, |w| w.rotate("now"))],
        end: 8 * HOUR,
    },
    Scenario {
        name: "delete in a mint, chosen",
        world: || full(World::choosing()),
        events: &[(600, World::delete)],
        end: 9 * HOUR,
    },
    Scenario {
        name: "desired state Revoked in a rotation, chosen",
        world: World::choosing,
        events: &[
            (600, |w| {
                w.provider.full = true;
                w.rotate("now");
            }),
            (1200, |w| desire(w, "Revoked")),
        ],
        end: 8 * HOUR,
    },
    Scenario {
        name: "a wrong project is put right, chosen",
        world: || full(World::choosing()),
        events: &[(600, |w| {
            w.project = "proj_2".into();
            w.provider.full = false;
        })],
        end: 6 * HOUR,
    },
    Scenario {
        name: "a pin ends an attempt to make a key, chosen",
        world: World::choosing,
        events: &[
            (600, |w| {
                w.provider.full = true;
                w.rotate("now");
            }),
            (900, |w| pin(w, Some(1))),
        ],
        end: 8 * HOUR,
    },
    Scenario {
        name: "create, supplied",
        world: || World::supplying("sk-supplied-1"),
        events: &[],
        end: 6 * HOUR,
    },
    Scenario {
        name: "rotate with a workload that is restarted",
        world: || using(World::minting(), &[WorkloadKind::Deployment]),
        events: &[(600, |w| w.rotate("now"))],
        end: 8 * HOUR,
    },
    Scenario {
        name: "rotate with a pod that ends late",
        world: || using(World::minting(), &[WorkloadKind::Pod]),
        events: &[(600, |w| w.rotate("now")), (2 * HOUR, |w| w.consumers.clear())],
        end: 8 * HOUR,
    },
    Scenario { name: "create with a spare", world: sparing, events: &[], end: 6 * HOUR },
    Scenario {
        name: "rotate with a spare",
        world: sparing,
        events: &[(600, |w| w.rotate("now"))],
        end: 8 * HOUR,
    },
    Scenario {
        name: "the key in use is refused and there is a spare",
        world: || checked_every(3600),
        events: &[(600, withdraw_delivered)],
        end: 8 * HOUR,
    },
    Scenario {
        name: "a spare is refused",
        world: || checked_every(3600),
        events: &[(600, withdraw_spare)],
        end: 6 * HOUR,
    },
    Scenario {
        name: "no spare is asked for any more",
        world: sparing,
        events: &[(600, |w| w.policy.spares = 0)],
        end: 6 * HOUR,
    },
    Scenario { name: "delete with a spare", world: sparing, events: &[(600, World::delete)], end: 9 * HOUR },
    Scenario {
        name: "the version in use is burnt and there is a spare",
        world: sparing,
        events: &[(600, |w| burn(w, &[1]))],
        end: 6 * HOUR,
    },
    Scenario { name: "rotate", world: World::minting, events: &[(600, |w| w.rotate("now"))], end: 8 * HOUR },
    Scenario {
        name: "delete and create again in time",
        world: World::minting,
        events: &[(600, World::delete), (1200, create_again)],
        end: 8 * HOUR,
    },
    Scenario {
        name: "delete and create again with another LLMProvider",
        world: World::minting,
        events: &[
            (600, World::delete),
            (1200, |w| {
                w.llm_provider = "another".into();
                create_again(w);
            }),
        ],
        end: 8 * HOUR,
    },
    Scenario {
        name: "delete in a mint and create again as a supplied key",
        world: || {
            let mut world = World::minting();
            world.provider.full = true;
            world.supply("sk-supplied-1", Verdict::Valid);
            world
        },
        events: &[
            (600, World::delete),
            (1200, |w| {
                w.llm_provider = "another".into();
                let source = json!({"secretRef": {"name": "s", "key": "k"}});
                w.create(&json!({"providerRef": {"name": "another"}, "source": source}));
            }),
        ],
        end: 8 * HOUR,
    },
    Scenario {
        name: "delete and create again too late",
        world: World::minting,
        events: &[(600, World::delete), (600 + HOUR + 120, create_again)],
        end: 9 * HOUR,
    },
    Scenario { name: "delete", world: World::minting, events: &[(600, World::delete)], end: 9 * HOUR },
    Scenario {
        name: "delete in an overlap",
        world: World::minting,
        events: &[(600, |w| w.rotate("now")), (1200, World::delete)],
        end: 9 * HOUR,
    },
    Scenario {
        name: "desired state Revoked",
        world: World::minting,
        events: &[(600, |w| w.rotate("now")), (1200, |w| desire(w, "Revoked"))],
        end: 6 * HOUR,
    },
    Scenario {
        name: "Revoked and Active again",
        world: World::minting,
        events: &[(600, |w| desire(w, "Revoked")), (1800, |w| desire(w, "Active"))],
        end: 6 * HOUR,
    },
    Scenario {
        name: "the version in use is burnt",
        world: World::minting,
        events: &[(600, |w| burn(w, &[1]))],
        end: 6 * HOUR,
    },
    Scenario {
        name: "both versions of an overlap are burnt",
        world: World::minting,
        events: &[(600, |w| w.rotate("now")), (1200, |w| burn(w, &[1, 2]))],
        end: 6 * HOUR,
    },
    Scenario {
        name: "a wrong project is put right",
        world: || {
            let mut world = World::minting();
            world.provider.refuses.insert("proj_1".into());
            world
        },
        events: &[(600, |w| w.project = "proj_2".into())],
        end: 6 * HOUR,
    },
    Scenario {
        name: "the source changes",
        world: || World::supplying("sk-supplied-1"),
        events: &[(600, |w| w.supply("sk-supplied-2", Verdict::Valid))],
        end: 6 * HOUR,
    },
    Scenario {
        name: "a pool's turns, and a member that is filled again",
        world: || World::pooling(&[("a", "sk-pool-a1"), ("b", "sk-pool-b1")]),
        events: &[
            (600, |w| w.rotate("1")),
            (1200, |w| w.fill("b", "sk-pool-b2", Verdict::Valid)),
            (1800, |w| w.rotate("2")),
            (2400, |w| w.fill("a", "sk-pool-a2", Verdict::Valid)),
        ],
        end: 6 * HOUR,
    },
    Scenario {
        name: "a pool with a member that is refused",
        world: || {
            let mut world = World::pooling(&[("a", "sk-pool-a1"), ("b", "sk-pool-b1"), ("c", "sk-pool-c1")]);
            world.fill("b", "sk-pool-bad", Verdict::Rejected);
            world
        },
        events: &[(600, |w| w.rotate("1")), (1200, |w| w.fill("b", "sk-pool-b2", Verdict::Valid))],
        end: 6 * HOUR,
    },
    Scenario {
        name: "a pool takes over from keys that were made",
        world: World::minting,
        events: &[(600, |w| {
            w.fill("a", "sk-pool-a1", Verdict::Valid);
            w.edit(|key| key.spec.source = serde_json::from_value(pool(&["a"])).unwrap());
        })],
        end: 8 * HOUR,
    },
    Scenario {
        name: "the Secret is changed by hand in an overlap",
        world: World::minting,
        events: &[
            (600, |w| w.rotate("now")),
            (900, |w| {
                let old = w.provider.keys.iter().map(|k| k.bytes.clone()).next();
                if let (Some(target), Some(old)) = (&mut w.target, old) {
                    target.bytes = old;
                    target.resource_version += 1_000_000;
                }
            }),
        ],
        end: 9 * HOUR,
    },
    Scenario {
        name: "the older version of an overlap is pinned",
        world: World::minting,
        events: &[(600, |w| w.rotate("now")), (900, |w| pin(w, Some(1)))],
        end: 8 * HOUR,
    },
    Scenario {
        name: "a pin, and later a rotation without it",
        world: World::minting,
        events: &[
            (600, |w| w.rotate("now")),
            (900, |w| pin(w, Some(1))),
            (3 * HOUR, |w| {
                pin(w, None);
                w.rotate("again");
            }),
        ],
        end: 9 * HOUR,
    },
    Scenario {
        name: "a pin ends a rotation whose key is not accepted yet",
        world: || {
            let mut world = World::minting();
            world.provider.spreading = std::time::Duration::from_secs(300);
            world
        },
        events: &[(600, |w| w.rotate("now")), (780, |w| pin(w, Some(1)))],
        end: 8 * HOUR,
    },
    Scenario {
        name: "a pin ends an attempt to make a key",
        world: World::minting,
        events: &[
            (600, |w| {
                w.provider.refuses.insert("proj_1".into());
                w.rotate("now");
            }),
            (900, |w| pin(w, Some(1))),
        ],
        end: 8 * HOUR,
    },
    Scenario {
        name: "a supplied version is pinned",
        world: || World::supplying("sk-supplied-1"),
        events: &[
            (600, |w| w.supply("sk-supplied-2", Verdict::Valid)),
            (1200, |w| pin(w, Some(1))),
            (1800, |w| pin(w, None)),
        ],
        end: 6 * HOUR,
    },
    Scenario {
        name: "a key that is pinned is burnt by its older number",
        world: World::minting,
        events: &[
            (600, |w| w.rotate("now")),
            (900, |w| pin(w, Some(1))),
            (1500, |w| {
                pin(w, None);
                burn(w, &[1]);
            }),
        ],
        end: 8 * HOUR,
    },
];
