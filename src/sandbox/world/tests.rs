use super::super::settings::OwnerAccess;
use super::*;

const START: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn world() -> (World, usize) {
    let mut world = World::new(
        Mint::new([1; 32]),
        "sk-admin-test",
        "sk-or-v1-test",
        "sk-master",
        "azure-secret",
        "aws-secret",
    );
    world.add_project("test", START);
    (world, 0)
}

fn new_key(value: &str, owner: Owner) -> NewKey<'_> {
    NewKey { value, name: "k".to_owned(), owner, access: OwnerAccess::Active, lifetime: None }
}

fn accepts(world: &World, value: &str, now: DateTime<Utc>) -> bool {
    let value = zeroize::Zeroizing::new(value.to_owned());
    let presented = Presented { digest: credential::digest(&value), value };
    matches!(world.judge(&presented, now), Verdict::Key(_) | Verdict::Pattern(_))
}

#[test]
fn an_account_takes_only_its_own_keys_with_it() {
    let (mut world, project) = world();
    let first = world.add_account(project, "same", "member", START).unwrap();
    let second = world.add_account(project, "same", "member", START).unwrap();
    for (value, owner) in [("one-1", first), ("one-2", first), ("two-1", second)] {
        world.add_key(project, new_key(value, Owner::ServiceAccount(owner)), START).unwrap();
    }
    let id = world.projects()[project].accounts[&first].id.clone();
    assert_eq!(world.delete_account(project, &id, START).unwrap().len(), 2);
    assert!(world.delete_account(project, &id, START).is_none(), "the second deletion finds nothing");
    let accepted = ["one-1", "one-2", "two-1"].map(|value| accepts(&world, value, START));
    assert_eq!(accepted, [false, false, true]);
}

#[test]
fn a_lag_is_fixed_when_the_key_is_made_or_deleted() {
    let (mut world, project) = world();
    let at = |millis| START + TimeDelta::milliseconds(millis);
    let lag = Settings { new_key_lag_millis: 10, deleted_key_lag_millis: 20, ..Settings::default() };
    world.set_settings(None, lag);
    let place = world.add_key(project, new_key("value", Owner::User), START).unwrap();
    world.set_settings(None, Settings::default());
    assert_eq!([9, 10].map(|millis| accepts(&world, "value", at(millis))), [false, true]);
    assert!(world.delete_key(place, at(30)));
    assert!(!world.delete_key(place, at(30)));
    assert!(!accepts(&world, "value", at(30)), "the lag was switched off before the deletion");
}

#[test]
fn a_projects_own_settings_win() {
    let (mut world, project) = world();
    let id = world.projects()[project].id.clone();
    let own = Settings { max_page_size: 1, ..Settings::default() };
    assert!(world.set_settings(Some(&id), own));
    assert!(!world.set_settings(Some("proj_other"), Settings::default()));
    assert_eq!((world.settings(Some(project)).max_page_size, world.settings(None).max_page_size), (1, 100));
}

#[test]
fn a_withdrawn_value_is_refused_until_it_is_supplied_again() {
    let (mut world, project) = world();
    let id = world.projects()[project].id.clone();
    assert!(world.accept_pattern("sk-", &id));
    assert!(accepts(&world, "sk-1", START));
    world.withdraw("sk-1", START);
    assert!(!accepts(&world, "sk-1", START));
    world.add_key(project, new_key("sk-1", Owner::User), START).unwrap();
    assert!(accepts(&world, "sk-1", START));
    world.archive_project(&id, START);
    assert!(!accepts(&world, "sk-1", START));
}
