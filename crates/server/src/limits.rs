//! Rate limits: per tenant on the partner API, per address on public endpoints. Each node counts for itself.

use crate::config::Limits;
use crate::problem::{Code, Problem};
use domain::id::TenantId;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;

type Keyed<K> = RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// Who counts as one caller: an IPv4 address, or the /64 an IPv6 host can choose its addresses from.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address => address,
    }
}

/// What is left, for the `RateLimit-*` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// The burst size.
    pub limit: u32,
    /// Requests left in the burst.
    pub remaining: u32,
    /// Seconds until the burst is whole again.
    pub reset: u64,
}

/// The limiters of one process.
pub struct RateLimits {
    tenants: Option<(Keyed<TenantId>, Quota)>,
    addresses: Option<(Keyed<IpAddr>, Quota)>,
    links: Option<(Keyed<IpAddr>, Quota)>,
    clock: DefaultClock,
}

impl std::fmt::Debug for RateLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimits").field("on", &self.tenants.is_some()).finish_non_exhaustive()
    }
}

fn keyed<K: Hash + Eq + Clone>(per_second: u32, burst: u32) -> (Keyed<K>, Quota) {
    let one = NonZeroU32::MIN;
    let quota = Quota::per_second(NonZeroU32::new(per_second).unwrap_or(one))
        .allow_burst(NonZeroU32::new(burst).unwrap_or(one));
    (RateLimiter::keyed(quota).with_middleware(), quota)
}

impl RateLimits {
    /// The limiters, or none where they are switched off.
    #[must_use]
    pub fn new(limits: &Limits, on: bool) -> Self {
        Self {
            tenants: on.then(|| keyed(limits.tenant_per_second, limits.tenant_burst)),
            addresses: on.then(|| keyed(limits.public_per_second, limits.public_burst)),
            // Travellers behind one address, or a partner that fetches the pictures: as many as a tenant.
            links: on.then(|| keyed(limits.tenant_per_second, limits.tenant_burst)),
            clock: DefaultClock::default(),
        }
    }

    fn take<K: Hash + Eq + Clone>(
        &self,
        limiter: Option<&(Keyed<K>, Quota)>,
        key: &K,
    ) -> (Option<Allowance>, Result<(), Problem>) {
        let Some((limiter, quota)) = limiter else { return (None, Ok(())) };
        let limit = quota.burst_size().get();
        match limiter.check_key(key) {
            Ok(snapshot) => {
                let remaining = snapshot.remaining_burst_capacity();
                let missing = u64::from(limit.saturating_sub(remaining));
                let nanos = u64::try_from(quota.replenish_interval().as_nanos()).unwrap_or(u64::MAX);
                let reset = missing.saturating_mul(nanos).div_ceil(1_000_000_000);
                (Some(Allowance { limit, remaining, reset }), Ok(()))
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.clock.now());
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                let message = "Too many requests. Slow down, and go on after the seconds in Retry-After.";
                let seconds = seconds.max(1);
                let none = Allowance { limit, remaining: 0, reset: seconds };
                (Some(none), Err(Problem::new(Code::RateLimited, message).after(seconds)))
            }
        }
    }

    /// Counts a tenant's request: what is left, and 429 when nothing was.
    pub fn tenant(&self, tenant: TenantId) -> (Option<Allowance>, Result<(), Problem>) {
        self.take(self.tenants.as_ref(), &tenant)
    }

    /// Counts a stranger's request: what is left, and 429 when nothing was.
    pub fn address(&self, address: IpAddr) -> (Option<Allowance>, Result<(), Problem>) {
        self.take(self.addresses.as_ref(), &network(address))
    }

    /// Counts a request for a traveller's link: what is left, and 429 when nothing was.
    pub fn link(&self, address: IpAddr) -> (Option<Allowance>, Result<(), Problem>) {
        self.take(self.links.as_ref(), &network(address))
    }

    /// Forgets who was quiet.
    pub fn tidy(&self) {
        if let Some((limiter, _)) = &self.tenants {
            limiter.retain_recent();
        }
        for (limiter, _) in [&self.addresses, &self.links].into_iter().flatten() {
            limiter.retain_recent();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_its_network_and_an_ipv4_host_itself() {
        let network = |address: &str| network(address.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:2:ffff::"), "2001:db8:1:2::");
        assert_ne!(network("2001:db8:1:3::1"), "2001:db8:1:2::");
        assert_eq!(network("198.51.100.7"), "198.51.100.7");
        assert_eq!(network("::ffff:198.51.100.7"), "198.51.100.7");
    }
}
