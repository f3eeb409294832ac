//! The `statistic` match's probability, in the kernel's own unit.

use std::sync::LazyLock;

/// `--probability`, in the kernel's unit of 2⁻³¹.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probability(pub(crate) u32);

impl Probability {
    pub(crate) const ONE: f64 = 2_147_483_648.0;

    /// Returns 1/n as kube-proxy passes it to iptables: first rounded to ten decimals.
    #[must_use]
    pub fn one_in(n: usize) -> Self {
        // Covers nearly all requests. Computing them by way of their text takes a twentieth of the time of a start.
        static OFTEN: LazyLock<[Probability; 128]> =
            LazyLock::new(|| std::array::from_fn(|n| Probability::by_text(1, n)));
        OFTEN.get(n).copied().unwrap_or_else(|| Self::by_text(1, n))
    }

    /// Returns part/whole, rounded in the same way.
    #[must_use]
    pub fn of(part: usize, whole: usize) -> Self {
        if part == 1 { Self::one_in(whole) } else { Self::by_text(part, whole) }
    }

    fn by_text(part: usize, whole: usize) -> Self {
        #[allow(clippy::cast_precision_loss)] // an endpoint count is far below 2^52
        let exact = part as f64 / whole.max(1) as f64;
        Self::from_text(&format!("{exact:.10}")).unwrap_or(Self(1 << 31))
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let p: f64 = text.parse().ok()?;
        if !(0.0..=1.0).contains(&p) {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 ≤ p·2³¹ ≤ 2³¹
        Some(Self((p * Self::ONE).round() as u32))
    }
}
