//! The models of simulated devices: nameplate, fields of `get_sysinfo`, parts. Data, no behaviour.

/// A model of device and the form of its replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Model and region, `HS100(EU)`.
    pub name: &'static str,
    /// Hardware version.
    pub hw_ver: &'static str,
    /// Firmware version and build.
    pub sw_ver: &'static str,
    /// Product name. Strips do not report theirs.
    pub dev_name: &'static str,
    /// `IOT.SMARTPLUGSWITCH`, or `SMART.…` for a device of TP-Link's newer protocol, which only the account lists.
    pub kind: &'static str,
    /// `TIM`, or `TIM:ENE` with a meter.
    pub feature: &'static str,
    /// The fields of `get_sysinfo` that only some firmwares have.
    pub fields: &'static [&'static str],
    /// The number of outlets of a strip; 0 for a device that is not a strip.
    pub outlets: u8,
    /// The form of the outlet ids.
    pub ids: Ids,
    /// The units of its meter, if it has one.
    pub meter: Option<Generation>,
    /// Whether it dims.
    pub dims: bool,
    /// The version of KLAP that its newest firmware speaks.
    pub klap: SimKlapVersion,
}

/// The two published versions of KLAP, and a stand-in for plugs that match neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimKlapVersion {
    /// MD5, of 2020.
    V1,
    /// SHA-1 and SHA-256.
    V2,
    /// Not known: the proof of no account matches.
    Unknown,
}

/// The form of a strip's outlet ids on the LAN. Over TCP and UDP only the form of that transport is understood. Over
/// the cloud ids are always long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// Two digits.
    Short,
    /// The strip's device id and two digits.
    Long,
    /// Long over TCP, short over UDP.
    LongOverTcp,
}

/// The two sets of units that meters use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// A, V, W and kWh, with fractions.
    Old,
    /// mA, mV, mW and Wh, whole.
    New,
}

impl Model {
    /// Every model with its short name for command lines.
    pub const ALL: [(&str, Self); 13] = [
        ("hs100", Self::HS100_HW1),
        ("hs100-2", Self::HS100_HW2),
        ("hs100-4", Self::HS100_HW4),
        ("hs107", Self::HS107),
        ("hs110", Self::HS110_HW1),
        ("hs110-4", Self::HS110_HW4),
        ("hs200", Self::HS200),
        ("hs210", Self::HS210),
        ("hs220", Self::HS220),
        ("hs300", Self::HS300),
        ("kp115", Self::KP115),
        ("kp303", Self::KP303),
        ("kp405", Self::KP405),
    ];

    /// The model with this short name, ignoring case.
    pub fn named(word: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
        found.map(|&(_, model)| model)
    }

    /// HS100, hardware 1.0, as sold in Europe.
    pub const HS100_HW1: Self = Self {
        name: "HS100(EU)",
        hw_ver: "1.0",
        sw_ver: "1.2.6 Build 200727 Rel.121701",
        dev_name: "Wi-Fi Smart Plug",
        kind: "IOT.SMARTPLUGSWITCH",
        feature: "TIM",
        fields: &["type", "fwId", "latitude", "longitude"],
        outlets: 0,
        ids: Ids::Short,
        meter: None,
        dims: false,
        klap: SimKlapVersion::V2,
    };

    /// HS100, hardware 2.0, as sold in America.
    pub const HS100_HW2: Self = Self {
        name: "HS100(US)",
        hw_ver: "2.0",
        sw_ver: "1.5.6 Build 191118 Rel.140307",
        fields: &["type", "fwId", "latitude_i", "longitude_i", "next_action"],
        ..Self::HS100_HW1
    };

    /// HS100, hardware 4.1, as sold in Britain: the first that changed to KLAP.
    pub const HS100_HW4: Self = Self {
        name: "HS100(UK)",
        hw_ver: "4.1",
        sw_ver: "1.1.0 Build 201016 Rel.175121",
        dev_name: "Smart Wi-Fi Plug",
        fields: &["mic_type", "latitude_i", "longitude_i", "next_action", "status", "ntc_state"],
        klap: SimKlapVersion::V1,
        ..Self::HS100_HW1
    };

    /// HS110, hardware 1.0: its meter has the old units.
    pub const HS110_HW1: Self = Self {
        name: "HS110(EU)",
        sw_ver: "1.2.5 Build 171213 Rel.101523",
        dev_name: "Wi-Fi Smart Plug With Energy Monitoring",
        feature: "TIM:ENE",
        meter: Some(Generation::Old),
        ..Self::HS100_HW1
    };

    /// HS110, hardware 4.0: its meter has the new units, as since hardware 2.
    pub const HS110_HW4: Self = Self {
        name: "HS110(EU)",
        hw_ver: "4.0",
        sw_ver: "1.0.4 Build 191111 Rel.143500",
        dev_name: "Smart Wi-Fi Plug With Energy Monitoring",
        feature: "TIM:ENE",
        fields: &["mic_type", "latitude_i", "longitude_i", "next_action", "status"],
        meter: Some(Generation::New),
        ..Self::HS100_HW1
    };

    /// KP115, a small plug. Its product name does not mention its meter.
    pub const KP115: Self = Self {
        name: "KP115(EU)",
        hw_ver: "1.0",
        sw_ver: "1.0.16 Build 210205 Rel.163735",
        dev_name: "Smart Wi-Fi Plug Mini",
        feature: "TIM:ENE",
        fields: &["mic_type", "latitude_i", "longitude_i", "next_action", "status", "obd_src", "ntc_state"],
        meter: Some(Generation::New),
        ..Self::HS100_HW1
    };

    /// HS107, two outlets.
    pub const HS107: Self = Self {
        name: "HS107(US)",
        sw_ver: "1.0.8 Build 190103 Rel.163436",
        dev_name: "",
        fields: &["mic_type", "latitude_i", "longitude_i"],
        outlets: 2,
        ..Self::HS100_HW1
    };

    /// KP303, three outlets with ids of two digits.
    pub const KP303: Self = Self {
        name: "KP303(UK)",
        sw_ver: "1.0.3 Build 191105 Rel.113122",
        fields: &["mic_type", "latitude_i", "longitude_i", "status", "ntc_state"],
        outlets: 3,
        ..Self::HS107
    };

    /// HS300, six outlets, each with a meter. Ids are long over TCP and short over UDP.
    pub const HS300: Self = Self {
        name: "HS300(US)",
        hw_ver: "2.0",
        sw_ver: "1.0.3 Build 201203 Rel.165457",
        feature: "TIM:ENE",
        fields: &["mic_type", "latitude_i", "longitude_i", "status"],
        outlets: 6,
        ids: Ids::LongOverTcp,
        meter: Some(Generation::New),
        ..Self::HS107
    };

    /// HS200, a wall switch.
    pub(crate) const HS200: Self = Self {
        name: "HS200(US)",
        hw_ver: "5.0",
        sw_ver: "1.0.2 Build 200819 Rel.105309",
        dev_name: "Smart Wi-Fi Light Switch",
        fields: &["mic_type", "latitude_i", "longitude_i", "next_action", "status"],
        ..Self::HS100_HW1
    };

    /// HS210, one of a pair of wall switches for one light.
    pub(crate) const HS210: Self = Self {
        name: "HS210(US)",
        hw_ver: "2.0",
        sw_ver: "1.1.5 Build 210422 Rel.113212",
        dev_name: "Smart Wi-Fi 3-Way Light Switch",
        ..Self::HS200
    };

    /// HS220, a wall dimmer.
    pub const HS220: Self = Self {
        name: "HS220(US)",
        sw_ver: "1.5.7 Build 180912 Rel.104837",
        dev_name: "Smart Wi-Fi Dimmer",
        fields: &[
            "mic_type",
            "fwId",
            "latitude_i",
            "longitude_i",
            "next_action",
            "brightness",
            "preferred_state",
        ],
        dims: true,
        ..Self::HS100_HW1
    };

    /// KP405, a plug-in dimmer.
    pub const KP405: Self = Self {
        name: "KP405(US)",
        sw_ver: "1.0.5 Build 221108 Rel.181739",
        dev_name: "Kasa Smart Wi-Fi Outdoor Plug-In Dimmer",
        fields: &[
            "mic_type",
            "latitude_i",
            "longitude_i",
            "next_action",
            "status",
            "obd_src",
            "ntc_state",
            "brightness",
            "preferred_state",
        ],
        ..Self::HS220
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_has_agrees_with_what_it_tells() {
        for (word, model) in Model::ALL {
            assert_eq!(Model::named(&word.to_uppercase()), Some(model));
            assert_eq!(model.feature.contains("ENE"), model.meter.is_some(), "{word}");
            assert_eq!(model.fields.contains(&"brightness"), model.dims, "{word}");
            assert_eq!(model.dev_name.is_empty(), model.outlets > 0, "{word}");
            assert!(model.fields.contains(&"type") != model.fields.contains(&"mic_type"), "{word}");
        }
        assert_eq!(Model::named("hs101"), None);
    }
}
